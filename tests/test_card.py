"""A finished run's adapter as a repository of the hub: its card, and what push sends."""

import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from test_runs import command
from test_trainer import make_config, make_trainer

from advantageflow.errors import ConfigError

FILES = ["README.md", "config.yaml", *(f"images/{i}.png" for i in range(3)), "pytorch_lora_weights.safetensors"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_pipeline_folder):
    folder = tmp_path_factory.mktemp("card") / "run"
    prompts = {"train": "scenes:train", "held_out": "scenes:held_out"}
    make_trainer(
        make_config(model={"path": str(tiny_pipeline_folder)}, prompts=prompts), folder, tiny_pipeline_folder
    ).run()
    return folder


def test_the_card_of_a_run_says_what_it_is(finished):
    card = ModelCard.load(finished / "lora" / "README.md")
    assert card.data.pipeline_tag == "text-to-image"
    assert card.data.to_dict()["library_name"] == "diffusers"
    assert "lora" in card.data.tags
    assert [shown["output"]["url"] for shown in card.data.to_dict()["widget"]] == FILES[2:5]
    for shown in card.data.to_dict()["widget"]:
        assert Image.open(finished / "lora" / shown["output"]["url"]).size == (64, 64)
    assert "A LoRA (rank 4, alpha 8)" in card.text
    assert "trained with AdvantageFlow" in card.text
    assert "| strict | `scenes_strict` |" in card.text
    recipe = yaml.safe_load((finished / "lora" / "config.yaml").read_text())
    assert recipe == yaml.safe_load((finished / "config.yaml").read_text())


def test_a_known_base_brings_its_licence_and_its_own_page(tmp_path, finished):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = (run / "config.yaml").read_text()
    path = yaml.safe_load(config)["model"]["path"]
    (run / "config.yaml").write_text(config.replace(path, "stabilityai/stable-diffusion-3.5-medium"))
    (run / "lora" / "README.md").unlink()  # that of another base
    command("push", run, "me/mine", "--dry-run")
    card = ModelCard.load(run / "lora" / "README.md")
    assert card.data.base_model == "stabilityai/stable-diffusion-3.5-medium"
    assert (card.data.license, card.data.license_name) == ("other", "stabilityai-ai-community")
    assert 'load_lora_weights("me/mine"' in card.text


def test_a_dry_run_lists_what_push_sends(finished, monkeypatch):
    code, text = command("push", finished, "me/mine", "--dry-run")
    assert code == 0
    assert text.endswith("6 files would go to me/mine; nothing was sent")
    assert [word for word in text.split() if word in FILES] == FILES
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="nobody is logged in"):
        command("push", finished, "me/mine")
    sent = {}
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **how: sent.update(how, name=name))

    def upload(self, repo_id, folder_path, ignore_patterns):
        files = [path for path in folder_path.rglob("*") if path.is_file() and not path.match(ignore_patterns)]
        sent["files"] = sorted(str(path.relative_to(folder_path)) for path in files)
        return type("Commit", (), {"repo_url": f"https://hub/{repo_id}"})

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    _, text = command("push", finished, "me/mine", "--private")
    assert text.endswith("6 files are at https://hub/me/mine")
    assert sent == {"name": "me/mine", "private": True, "exist_ok": True, "files": FILES}


def test_a_card_that_was_edited_is_sent_as_it_is(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    card = run / "lora" / "README.md"
    for name in ("me/first", "me/second"):  # another repository is no edit
        assert "stays as it is" not in command("push", run, name, "--dry-run")[1]
        assert name in card.read_text()
    card.write_text(card.read_text().replace("## Use", "Mind the gap.\n\n## Use"))
    assert "README.md was changed here, and stays as it is" in command("push", run, "me/second", "--dry-run")[1]
    assert "Mind the gap." in card.read_text()


def test_what_cannot_be_sent_is_refused(finished, tmp_path, monkeypatch):
    for name in ("mine", "me/mine/more", "me/what is this"):
        with pytest.raises(ConfigError, match="give OWNER/NAME"):
            command("push", finished, name, "--dry-run")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    with pytest.raises(ConfigError, match="is not finished"):
        command("push", run, "me/mine", "--dry-run")

    def refuse(self, *given, **named):
        raise OSError("402 pay first")

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(ConfigError, match="cannot send to me/mine: 402 pay first"):
        command("push", finished, "me/mine")
