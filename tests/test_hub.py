"""What is said where the hub does not give what is asked of it; nothing here touches a network."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from advantageflow import hub
from advantageflow.errors import ConfigError
from advantageflow.hub import file_of_hub, notice_offline
from advantageflow.models import load_model
from advantageflow.rewards import load_reward


def http_error(kind, status):
    return kind("refused", response=SimpleNamespace(headers={}, status_code=status, request=None))


@pytest.fixture
def asked(monkeypatch):
    """A hub that is there, and how often it was asked."""
    calls = []
    session = SimpleNamespace(head=lambda *arguments, **options: calls.append(arguments))
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.notice_offline.cache_clear()
    yield calls
    hub.notice_offline.cache_clear()


ANSWERS = [
    (
        http_error(errors.GatedRepoError, 403),
        "it is gated; accept its licence at https://.*/some/model, .* hf auth login",
    ),
    (http_error(errors.RepositoryNotFoundError, 401), "no such repository, or it is private; .*hf auth login"),
    (errors.LocalEntryNotFoundError("nothing here"), "the hub does not answer"),
    (OSError("something else"), "something else; fetch it once with a network, or give a folder"),
]


@pytest.mark.parametrize(("answer", "message"), ANSWERS)
def test_what_the_hub_refuses_is_one_sentence_with_what_to_do(asked, monkeypatch, answer, message):
    def refuse(*arguments, **options):
        raise answer

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", refuse)
    with pytest.raises(ConfigError, match=f"cannot load 'some/model': .*{message}"):
        file_of_hub("some/model", "x.safetensors")
    if not isinstance(answer, errors.LocalEntryNotFoundError) and "something" not in message:
        with pytest.raises(ConfigError, match=f"cannot load 'some/model': .*{message}"):
            load_model("some/model")


def test_a_reward_whose_weights_are_gated_says_so(asked, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("You are trying to access a gated repo.") from http_error(errors.GatedRepoError, 403)

    monkeypatch.setattr("transformers.CLIPModel.from_pretrained", refuse)
    with pytest.raises(ConfigError, match=r"cannot load '.*': it is gated; accept its licence at https://"):
        load_reward("clipscore")


def test_offline_is_noticed_by_one_question(asked, monkeypatch):
    def nobody(*arguments, **options):
        asked.append(arguments)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=nobody))
    for _ in range(3):
        with pytest.raises(ConfigError, match=r"the hub cannot be reached .* and it was not fetched before"):
            load_model("some/model")
    assert len(asked) == 1
    assert constants.HF_HUB_OFFLINE


def test_told_to_be_offline_nobody_is_asked(asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    notice_offline()
    assert not asked


def test_an_adapter_of_the_hub_is_found_by_its_usual_names(asked, monkeypatch, tmp_path):
    from safetensors.torch import save_file
    from torch import ones

    from advantageflow.adapters import read_adapter

    save_file({"x.lora_A.weight": ones(1, 2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    wanted = []

    def download(repository, name):
        wanted.append((repository, name))
        if not (tmp_path / Path(name).name).is_file():
            raise http_error(errors.RemoteEntryNotFoundError, 404)
        return str(tmp_path / Path(name).name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for source in ("some/adapter", "some/adapter/deep"):
        assert read_adapter(source).settings == {"lora_alpha": 8}
    assert ("some/adapter", "deep/adapter_model.safetensors") in wanted
    with pytest.raises(ConfigError, match=r"'some/adapter': it has no file other.safetensors"):
        read_adapter("some/adapter/other.safetensors")
    with pytest.raises(ConfigError, match=r"is pickled \(other.bin\)"):
        read_adapter("some/adapter/other.bin")
