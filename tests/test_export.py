"f_T in ONNX answers what it answers in PyTorch; skipped where the extra [onnx] is not installed."

from pathlib import Path

import numpy as np
import pytest
import torch

from s3net.base.config import preset
from s3net.eval.export import example_inputs, export_onnx, missing_packages, read_onnx
from s3net.train.models import DepthModel
from s3net.train.networks import build_nets

pytestmark = pytest.mark.skipif(
    bool(missing_packages()),
    reason=f"the extra [onnx] is not installed: {', '.join(missing_packages())} missing",
)


@pytest.mark.parametrize(
    ("kind", "semantics", "changes"),
    [
        ("unet", "none", {}),
        ("unet", "depth", {}),
        ("vgg", "none", {}),
        ("unet", "both", {"depth_code": "log", "depth_norm": "group"}),
        ("dispnet", "none", {"depth_code": "log"}),
    ],
)
def test_same_depth(tmp_path: Path, kind: str, semantics: str, changes: dict) -> None:
    "Any batch, with and without label channels, to a ten-thousandth of the depth"
    cfg = preset("tiny", depth_net=kind, semantics=semantics, **changes)
    model = DepthModel(build_nets(cfg, ("depth",))["depth"].eval(), None, cfg)
    done = export_onnx(model, tmp_path / "depth.onnx", "a run")
    session, about = read_onnx(done.path)
    inputs = [x[:3] for x in example_inputs(model, 5)]
    (theirs,) = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs)})
    with torch.no_grad():
        ours = model.depth(*inputs, *[None] * (2 - len(inputs))).depth.numpy()
    assert np.abs(ours - theirs).max() < 1e-4 * ours.max()
    assert about["weights"] == model.hashes()["depth"] and about["unit"] == "metres"
    assert [i.name for i in session.get_inputs()] == ["image", "semantics"][: len(inputs)]
