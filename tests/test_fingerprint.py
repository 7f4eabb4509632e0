"""Equal content has equal fingerprints, and the least change has another."""

import torch

from advantageflow.fingerprint import of_file, of_folder, of_tensors, of_value


def test_values_by_content_and_not_by_order():
    assert of_value({"a": 1, "b": [2, 3]}) == of_value({"b": [2, 3], "a": 1})
    assert of_value({"a": 1}) != of_value({"a": 1.5})


def test_files_are_told_apart_by_their_bytes(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4, of nothing
    assert of_file(tmp_path / "empty") == known
    before = of_folder(tmp_path)
    (tmp_path / "empty").write_bytes(b"x")
    assert of_folder(tmp_path) != before
    renamed = of_folder(tmp_path)
    (tmp_path / "empty").rename(tmp_path / "other")
    assert of_folder(tmp_path) != renamed


def test_tensors_by_name_precision_shape_and_value():
    one = {"w": torch.tensor([[1.0, 2.0]])}
    assert of_tensors(one) == of_tensors({"w": torch.tensor([[1.0, 2.0]])})
    for other in (
        {"v": one["w"]},
        {"w": one["w"].double()},
        {"w": one["w"].bfloat16()},
        {"w": one["w"].T},
        {"w": torch.tensor([[1.0, 2.0 + 2e-7]])},
    ):
        assert of_tensors(other) != of_tensors(one)
    assert of_tensors({"step": torch.tensor(1.0)}) == of_tensors({"step": torch.tensor(1.0)})  # a scalar
