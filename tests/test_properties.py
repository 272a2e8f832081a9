"Properties that must hold for any input: geometry, masks, metrics, formats, configurations."

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from s3net.base.config import Config, differences, from_dict, override, preset, to_dict
from s3net.base.core import InputError, generator
from s3net.base.records import parse_record, record_line
from s3net.data.codes import decode_depth, decode_flow, encode_depth, encode_flow
from s3net.data.lists import read_runs, write_runs
from s3net.data.loaders import BatchStream, pack, unpack
from s3net.data.samples import read_image, write_image
from s3net.eval.depth import depth_metrics, get_protocol
from s3net.geometry.camera import (
    backproject,
    crop_camera,
    flip_camera,
    project,
    resize_camera,
)
from s3net.geometry.depth_code import LINEAR, DepthCode
from s3net.geometry.image import one_hot, resize_depth, resize_labels, ssim_error
from s3net.geometry.motion import (
    axis_angle_to_matrix,
    compose,
    invert,
    matrix_to_axis_angle,
    motion,
    transform,
)
from s3net.geometry.warp import sample
from s3net.losses.automask import auto_mask
from s3net.losses.photometric import masked_mean, photometric_error
from s3net.losses.semantic import confusion, iou_scores
from s3net.train.faults import Readable, halved
from s3net.train.state import rate_factor

settings.register_profile(
    "here", max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("here")
torch.set_num_threads(1)

seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(2, 9), st.integers(2, 12))
numbers = st.floats(allow_nan=True, allow_infinity=True)


def drawn(seed: int, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def camera(seed: int, size: tuple[int, int]) -> torch.Tensor:
    fx, fy, x, y = drawn(seed, 4).tolist()
    height, width = size
    K = [[width * (0.5 + fx), 0, x * (width - 1)], [0, height * (0.5 + fy), y * (height - 1)]]
    return torch.tensor([*K, [0, 0, 1.0]], dtype=torch.float64)


# --- geometry ------------------------------------------------------------------------------------


@given(seeds, sizes)
def test_a_point_lands_on_the_pixel_that_saw_it(seed, size):
    K, depth = camera(seed, size), drawn(seed, 1, 1, *size, low=0.5, high=80).double()
    pixels, z = project(backproject(depth, K), K)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    assert torch.allclose(pixels[0, 0], x.double(), atol=1e-9)
    assert torch.allclose(pixels[0, 1], y.double(), atol=1e-9) and torch.equal(z, depth)


@given(seeds)
def test_a_rotation_keeps_lengths_and_comes_back(seed):
    turn = drawn(seed, 3, low=-1.7, high=1.7).double()
    R = axis_angle_to_matrix(turn)
    assert torch.allclose(R @ R.mT, torch.eye(3).double(), atol=1e-9)
    assert abs(torch.linalg.det(R).item() - 1) < 1e-9
    assert torch.allclose(matrix_to_axis_angle(R), turn, atol=1e-6)


@given(seeds)
def test_motions_are_a_group(seed):
    a, b, c = (motion(*drawn(seed + k, 2, 3, low=-1, high=1).double()) for k in range(3))
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    points = drawn(seed, 1, 3, 4, 5, low=-9, high=9).double()
    there = transform(a[None], points)
    assert torch.allclose(left, right, atol=1e-12)
    assert torch.allclose(compose(a, invert(a)), torch.eye(4).double(), atol=1e-12)
    assert torch.allclose(transform(invert(a)[None], there), points, atol=1e-9)


@given(seeds, sizes, sizes)
def test_a_camera_comes_back_from_resize_crop_and_flip(seed, size, other):
    K = camera(seed, size)
    assert torch.allclose(resize_camera(resize_camera(K, size, other), other, size), K, atol=1e-9)
    assert torch.allclose(crop_camera(crop_camera(K, 3, -2), -3, 2), K, atol=1e-9)
    assert torch.allclose(flip_camera(flip_camera(K, size[1]), size[1]), K, atol=1e-9)
    assert (flip_camera(K, size[1]).diagonal() > 0).all()


@given(seeds, sizes)
def test_looking_where_one_stands_changes_nothing(seed, size):
    image = drawn(seed, 1, 3, *size)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    seen, valid = sample(image, torch.stack([x, y])[None].float())
    assert valid.all() and torch.allclose(seen, image, atol=1e-5)


@given(seeds, sizes, sizes)
def test_resized_labels_and_depths_are_among_those_there_were(seed, size, other):
    labels = (drawn(seed, 1, *size) * 12).long()
    assert set(resize_labels(labels, other).unique().tolist()) <= set(labels.unique().tolist())
    depth = drawn(seed, 1, 1, *size, low=1, high=80)
    depth = depth.where(drawn(seed + 1, 1, 1, *size) > 0.3, torch.zeros(()))
    found = resize_depth(depth, other)
    assert (
        found.shape[-2:] == other and found.isfinite().all() and found.max() <= depth.max() + 1e-4
    )
    assert one_hot(labels, 12).sum(1).eq(1).all()


# --- losses and masks ----------------------------------------------------------------------------


@given(seeds, sizes)
def test_masked_pixels_do_not_count(seed, size):
    values, mask = drawn(seed, 2, 1, *size), drawn(seed + 1, 2, 1, *size) > 0.5
    spoilt = values.masked_fill(~mask, float("nan"))
    assert torch.equal(masked_mean(spoilt, mask), masked_mean(values, mask))
    assert masked_mean(spoilt, torch.zeros_like(mask)) == 0
    assert 0 <= masked_mean(values, mask, over="all") <= masked_mean(values, mask) + 1e-7


@given(seeds, sizes)
def test_a_picture_is_like_itself(seed, size):
    a, b = drawn(seed, 1, 3, *size), drawn(seed + 1, 1, 3, *size)
    assert photometric_error(a, a).abs().max() < 1e-4
    assert (ssim_error(a, b) >= 0).all() and (photometric_error(a, b) >= 0).all()
    assert torch.allclose(photometric_error(a, b), photometric_error(b, a), atol=1e-5)


@given(seeds, sizes)
def test_a_mask_keeps_only_what_warping_made_better(seed, size):
    still, warped = (
        [drawn(seed + k, 1, 1, *size), drawn(seed + k + 1, 1, 1, *size)] for k in (0, 2)
    )
    mask, error = auto_mask(still, warped)
    assert torch.equal(error, torch.minimum(*warped))
    assert (torch.minimum(*still)[mask] > error[mask]).all()
    assert not auto_mask(warped, warped)[0].any(), "no better than standing still is not kept"


@given(seeds, sizes)
def test_coded_depth_comes_back(seed, size):
    depth = drawn(seed, 1, 1, *size, low=0.1, high=80)
    for code in (LINEAR, DepthCode(90.0, "log")):
        assert torch.allclose(
            code.metres(code.code(depth)),
            depth.clamp(min=0.5 if code.form == "log" else 0),
            rtol=1e-4,
        )


# --- metrics -------------------------------------------------------------------------------------


@given(seeds, sizes, st.floats(0.1, 9))
def test_metrics_of_the_truth_and_of_a_scaled_truth(seed, size, factor):
    truth = drawn(seed, *size, low=1, high=79).double().numpy()
    plain = get_protocol("miniworld80")
    right = depth_metrics(truth, truth, plain)
    scaled = depth_metrics(np.clip(truth * factor, 1e-3, None), truth, plain.median_scaled())
    assert right["abs_rel"] == right["rmse"] == 0 and right["a1"] == 1
    assert scaled["abs_rel"] < 1e-6 and scaled["a1"] == 1


@given(seeds, sizes)
def test_metrics_stay_in_their_ranges(seed, size):
    truth, guess = (drawn(seed + k, *size, low=0.5, high=79).double().numpy() for k in (0, 1))
    found = depth_metrics(guess, truth, get_protocol("miniworld80"))
    assert all(math.isfinite(found[name]) and found[name] >= 0 for name in ("abs_rel", "rmse"))
    assert 0 <= found["a1"] <= found["a2"] <= found["a3"] <= 1


@given(seeds, sizes)
def test_confusion_counts_every_pixel_once(seed, size):
    labels = (drawn(seed, 1, *size) * 12).long()
    logits = drawn(seed + 1, 1, 12, *size)
    counts = confusion(logits, labels, 12)
    assert counts.sum() == labels.numel()
    perfect = iou_scores(confusion(one_hot(labels, 12).float(), labels, 12))
    assert perfect.mean == 1 and (perfect.per_class.nan_to_num(1) == 1).all()


# --- formats -------------------------------------------------------------------------------------


@given(arrays.arrays(np.uint16, (3, 5)))
def test_depth_codes_come_back(codes):
    assert np.array_equal(encode_depth(decode_depth(codes)), codes)


@given(seeds)
def test_flow_codes_come_back_to_a_step(seed):
    flow = drawn(seed, 2, 4, 6, low=-3, high=3).numpy()
    valid = drawn(seed + 1, 4, 6).numpy() > 0.3
    found, known = decode_flow(encode_flow(flow, valid))
    again, _ = decode_flow(encode_flow(found, known))
    assert np.array_equal(known, valid) and np.abs(found - flow)[:, valid].max(initial=0) < 1e-3
    assert np.array_equal(again, found)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))))
def test_pictures_come_back(tmp_path: Path, pixels):
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


@given(arrays.arrays(np.float32, (3, 2, 2), elements=st.floats(0, 1, width=32)))
def test_what_is_kept_in_memory_comes_back(values):
    image = torch.from_numpy(values)
    kind, codes = pack("image_t", image)
    assert torch.equal(unpack(kind, codes), image)


@given(st.lists(st.integers(0, 10**6), max_size=40))
def test_runs_of_frames_come_back(frames):
    assert read_runs(write_runs(frames)) == frames


@given(st.text(max_size=30))
def test_any_text_of_runs_is_read_or_refused(text):
    try:
        found = read_runs(text)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert all(type(frame) is int for frame in found)


@given(
    st.dictionaries(st.text(max_size=5), st.one_of(numbers, st.integers(), st.none()), max_size=5)
)
def test_records_come_back(record):
    line = record_line(record)
    found = parse_record(line)
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert line.count("\n") == 1 and found.keys() == record.keys()
    assert all(a == b or (a != a and b != b) for a, b in zip(found.values(), record.values()))


@given(st.binary(max_size=60))
def test_any_line_is_a_record_or_refused(line):
    try:
        assert isinstance(parse_record(line), dict)
    except InputError:
        pass


# --- configurations ------------------------------------------------------------------------------

NAMES = sorted(to_dict(preset("tiny")))


@given(
    st.sampled_from(NAMES), st.one_of(numbers, st.integers(), st.text(max_size=8), st.booleans())
)
def test_a_setting_is_taken_or_refused_in_one_sentence(name, value):
    try:
        made = from_dict(to_dict(preset("tiny")) | {name: value})
    except InputError as error:
        assert "\n" not in str(error).replace(repr(value), "") and name in str(error)
        return
    assert set(differences(preset("tiny"), made)) <= {name}
    assert from_dict(json.loads(json.dumps(to_dict(made)))) == made


@given(st.text(max_size=30))
def test_any_word_is_a_setting_or_refused(word):
    try:
        assert isinstance(override(preset("tiny"), [word]), Config)
    except InputError:
        pass


# --- trainings -----------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 7), seeds)
def test_every_sample_comes_once_an_epoch(count, batch, seed):
    stream = BatchStream(range(count), batch, seed)
    places = [i for step in range(count) for i in stream.indices(step)]
    epochs = [places[k : k + count] for k in range(0, len(places) - count + 1, count)]
    assert epochs and all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert stream.indices(3) == BatchStream(range(count), batch, seed).indices(3)


@given(st.integers(0, 100), st.integers(1, 100), st.floats(0, 1))
def test_rates_fall_and_stay_positive(step, steps, share):
    now, later = (rate_factor(min(k, steps - 1), steps, share) for k in (step, step + 1))
    assert 1 >= now >= later > 0


@given(st.integers(1, 64), st.integers(1, 8))
def test_half_a_batch_twice_is_a_batch(batch, accumulate):
    cfg = preset("tiny", batch=batch, accumulate=accumulate)
    found = halved(cfg)
    assert (found is None) == (batch % 2 == 1)
    assert found is None or found.batch * found.accumulate == batch * accumulate


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_bad_samples_are_replaced_by_the_next_good_one(good):
    class Some:
        def __len__(self) -> int:
            return len(good)

        def __getitem__(self, index: int) -> int:
            if not good[index]:
                raise InputError(f"{index}.png cannot be decoded")
            return index

    data = Readable(Some(), 1.0, lambda _: None)
    if not any(good):
        with pytest.raises(InputError):
            data[0]
        return
    for index in range(len(good)):
        ring = [(index + k) % len(good) for k in range(len(good))]
        assert data[index] == next(place for place in ring if good[place])


@given(seeds, st.text(max_size=6), st.text(max_size=6))
def test_draws_are_named(seed, name, other):
    a, b, c = (torch.rand(8, generator=generator(seed, n)) for n in (name, name, other))
    assert torch.equal(a, b) and (name == other or not torch.equal(a, c))
