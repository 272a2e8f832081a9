"""What test_ranks trains alone, and in two processes under torchrun: both phases in float64.

`torchrun ... ranks_job.py FOLDER` trains every case on the lesson world, then goes on from the
checkpoints that one process left in FOLDER, and writes losses and weights to FOLDER/several.pt.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import MethodType

import torch
from torch import nn

from s3net.base.config import Config, preset
from s3net.base.ranks import averaged, ranks
from s3net.base.together import join, launched, together
from s3net.data.loaders import BatchStream
from s3net.data.miniworld import lesson_world
from s3net.data.samples import Sample
from s3net.train.loop import Event, Phase, make_accelerator, train
from s3net.train.networks import build_nets
from s3net.train.phase1 import Phase1, phase1_state
from s3net.train.phase2 import Phase2, phase2_state
from s3net.train.sources import labelled, real_dataset, stream, synthetic_dataset
from s3net.train.state import TrainState, load_checkpoint, save_checkpoint

BREAK = 3  # the step after which a checkpoint is kept
CASES = {  # name -> settings, batch norm in training mode
    "phase1": (
        dict(semantics="both", accumulate=2, clip_gradient=1.0, alpha_feature=0.1, jitter=0.2)
        | dict(variety=0.5, label_variety=0.5, untranslated=0.5, task_to_translator=0.5),
        False,
    ),
    "phase2": (dict(alpha_pose=0.3, alpha_smooth2=0.1, accumulate=2, variety=0.5), False),
    "phase1-norms": (dict(steps=1, batch=4), True),
    "phase2-norms": (dict(steps=2, batch=4), True),
}


class Double:
    "A stream in float64"

    def __init__(self, source: BatchStream) -> None:
        self.source = source

    def batch(self, step: int) -> Sample:
        sample = self.source.batch(step)
        fields = sample.tensors().items()
        return replace(sample, **{n: v.double() for n, v in fields if v.is_floating_point()})


def in_double(state: TrainState, trained_norms: bool) -> TrainState:
    "Weights in float64; batch norm with fixed statistics unless it is trained"
    for net in state.modules.values():
        net.double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and not trained_norms:
                module.train = MethodType(
                    lambda self, mode=True: nn.Module.train(self, False), module
                )
    return state


def phase_of(name: str, cfg: Config, trained_norms: bool, folder: Path) -> Phase:
    "A phase on the lesson world, everything freshly made from the seed"
    clips = real_dataset(cfg)
    nets = build_nets(cfg, ("segmenter", "translator", "depth"))
    if cfg.semantics != "none":
        place = folder / f"{name}-{ranks().size}-{ranks().rank}"
        clips = labelled(clips, nets["segmenter"], place)
    streams = [
        Double(stream(data, cfg, side))
        for data, side in ((synthetic_dataset(cfg), "synthetic"), (clips, "real"))
    ]
    if name.startswith("phase1"):
        other = Double(stream(synthetic_dataset(cfg), cfg, "unlike"))
        given = dict(unlike=other, share=0.5)
        return Phase1(cfg, in_double(phase1_state(cfg), trained_norms), *streams, **given)
    given = dict(translator=nets["translator"].double(), anchor=nets["depth"].double())
    return Phase2(cfg, in_double(phase2_state(cfg), trained_norms), *streams, **given)


def numbers(event: Event) -> torch.Tensor:
    "The terms of one step, in order, as means over the processes"
    terms = [t.value.double() for r in event.reports.values() for t in r.terms.values()]
    return averaged(torch.stack(terms))


def trained(name: str, folder: Path, start: Path | None = None) -> dict[str, object]:
    "All steps from the seed, or the rest from a checkpoint; what was told, and all weights"
    settings, trained_norms = CASES[name]
    world = lesson_world()
    data = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    plain = dict(device="cpu", threads=1, shares_every=0, batch=2, pool=2, steps=5)
    cfg = preset("tiny", **data, **(plain | settings))
    accelerator = make_accelerator(cfg)
    phase, told = phase_of(name, cfg, trained_norms, folder), []
    if start is not None:
        load_checkpoint(phase.state, start)

    def keep(event: Event) -> None:
        told.append(numbers(event))
        if event.state.step == BREAK and ranks().first:
            save_checkpoint(event.state, folder / f"{name}-{ranks().size}")

    train(phase, cfg, accelerator, [keep])
    weights = {
        f"{net}/{key}": value
        for net, module in phase.state.modules.items()
        for key, value in module.state_dict().items()
        if value.is_floating_point()
    }
    assert ranks().size == accelerator.num_processes == launched()
    return {"losses": told, "weights": weights, "processes": ranks().size}


def all_cases(folder: Path, start: int | None = None) -> dict[str, dict]:
    "Every case anew, or those with fixed norms from the checkpoint of so many processes"
    found = {}
    for name, (_, trained_norms) in CASES.items():
        if start is None:
            found[name] = trained(name, folder)
        elif not trained_norms:
            found[name] = trained(name, folder, folder / f"{name}-{start}" / f"{BREAK:08d}")
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with together():
        join("cpu")
        results = {"whole": all_cases(place), "resumed": all_cases(place, 1)}
        if ranks().first:
            torch.save(results, place / "several.pt")
