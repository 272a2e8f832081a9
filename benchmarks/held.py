"""Trainings whose batches are ready on the device: what is timed is the step and nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3net.base.config import Config
from s3net.data.samples import RealClip, SyntheticPair
from s3net.geometry.camera import camera_from_fov
from s3net.train.networks import build_nets
from s3net.train.phase1 import Phase1, phase1_state
from s3net.train.phase2 import Phase2, phase2_state

Device = torch.device | str


@dataclass
class Held:
    "A stream that has one batch"

    sample: SyntheticPair | RealClip

    def batch(self, _: int) -> SyntheticPair | RealClip:
        "The batch, whatever the step"
        return self.sample


def _draw(cfg: Config, channels: int, seed: int, device: Device) -> Tensor:
    "(B,channels,H,W) in [0,1]; on the meta device only its shape"
    shape = (cfg.batch, channels, *cfg.size)
    if torch.device(device).type == "meta":
        return torch.empty(shape, device="meta")
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def make_pair(cfg: Config, device: Device) -> SyntheticPair:
    "A batch of random pictures with truth of the right kinds"
    draw = lambda channels, seed: _draw(cfg, channels, seed, device)  # noqa: E731
    known = torch.ones(cfg.batch, 1, *cfg.size, dtype=torch.bool, device=device)
    labels = (draw(1, 5)[:, 0] * 12).long()
    return SyntheticPair(
        image_t=draw(3, 0), image_t1=draw(3, 1), depth_t=1 + 70 * draw(1, 2),
        depth_t1=1 + 70 * draw(1, 3), labels_t=labels, labels_t1=labels,
        flow_t_t1=4 * draw(2, 4) - 2, flow_valid=known, flow_t1_t=2 - 4 * draw(2, 4),
        flow_t1_t_valid=known, T_t1_t=torch.eye(4, device=device).repeat(cfg.batch, 1, 1),
        K=camera_from_fov(80.0, cfg.size).repeat(cfg.batch, 1, 1).to(device),
    )  # fmt: skip


def make_real(cfg: Config, device: Device) -> RealClip:
    "A batch of random clips, with labels where the settings want them"
    names = ("prev", "tgt", "next")
    parts = {f"image_{name}": _draw(cfg, 3, 10 + k, device) for k, name in enumerate(names)}
    if cfg.semantics != "none":
        labels = (_draw(cfg, 1, 5, device)[:, 0] * 12).long()
        parts |= {f"labels_{name}": labels for name in names}
    K = camera_from_fov(80.0, cfg.size).repeat(cfg.batch, 1, 1).to(device)
    return RealClip(**parts, K=K)


def make_phase(kind: str, cfg: Config, device: Device) -> Phase1 | Phase2:
    "A training of a kind, at its first step, on held batches"
    on_paper = torch.device(device).type == "meta"
    place = "cpu" if on_paper else device
    pair, clip = Held(make_pair(cfg, device)), Held(make_real(cfg, device))
    if kind == "phase1":
        phase = Phase1(cfg, phase1_state(cfg, place), pair, clip, device)
        frozen = []
    else:
        given = build_nets(cfg, ("translator",))
        given |= {"anchor": build_nets(cfg, ("depth",))["depth"]} if cfg.alpha_scale else {}
        phase = Phase2(cfg, phase2_state(cfg, place), pair, clip, device=place, **given)
        phase.device, frozen = device, list(given.values())
    for net in [*phase.nets.values(), *frozen] if on_paper else []:
        net.to("meta")
    return phase


def weights(phase: Phase1 | Phase2) -> dict[str, int]:
    "Bytes of all networks, and of those that learn"
    nets = [*phase.nets.values()]
    nets += [
        n for n in (getattr(phase, k, None) for k in ("translator", "anchor")) if n is not None
    ]
    size = lambda some: sum(p.numel() * p.element_size() for n in some for p in n.parameters())  # noqa: E731
    learning: list[nn.Module] = [phase.nets[name] for name in phase.state.optimisers]
    return {"all": size(nets), "learning": size(learning)}


def step(phase: Phase1 | Phase2, number: int, autocast: torch.autocast | None = None) -> None:
    "One step, optimisers included, without the loop around it"
    for update in phase.updates(number):
        movers = [phase.state.optimisers[name] for name in update.optimisers]
        for optimiser in movers:
            optimiser.zero_grad(set_to_none=True)
        if autocast is None:
            report = update.loss(0)
        else:
            with autocast:
                report = update.loss(0)
        report.total.backward()
        for optimiser in movers:
            optimiser.step()
