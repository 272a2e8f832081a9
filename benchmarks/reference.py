"""The same work as the field usually writes it: what our figures are held against.

Nothing here is used outside the benchmarks. The losses follow Monodepth2's trainer: a Python loop
over scales and frames, a grid of points made anew for every warp, five poolings for every SSIM, the
comparison with the unwarped frames inside the loop. The loader opens, decodes and resizes each
picture of each sample when it is asked for. The scores follow Monodepth2's script: every map is
enlarged to the size of its laser scan, then masked, then scored, one after another.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

TIE = 2e-5  # errors closer than this are equal; the field adds noise of that size instead
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    "(B,3,H,W) each -> (B,3,H,W) in [0,1]: five poolings"
    x, y = F.pad(x, (1, 1, 1, 1), mode="reflect"), F.pad(y, (1, 1, 1, 1), mode="reflect")
    mu_x, mu_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    sigma_x = F.avg_pool2d(x**2, 3, 1) - mu_x**2
    sigma_y = F.avg_pool2d(y**2, 3, 1) - mu_y**2
    sigma_xy = F.avg_pool2d(x * y, 3, 1) - mu_x * mu_y
    top = (2 * mu_x * mu_y + SSIM_C1) * (2 * sigma_xy + SSIM_C2)
    bottom = (mu_x**2 + mu_y**2 + SSIM_C1) * (sigma_x + sigma_y + SSIM_C2)
    return torch.clamp((1 - top / bottom) / 2, 0, 1)


def reprojection_error(pred: Tensor, target: Tensor) -> Tensor:
    "(B,3,H,W) each -> (B,1,H,W)"
    l1 = torch.abs(target - pred).mean(1, True)
    return 0.85 * ssim(pred, target).mean(1, True) + 0.15 * l1


def warp(source: Tensor, depth: Tensor, T: Tensor, K: Tensor) -> Tensor:
    "Backproject, move, project, read: with a fresh grid of homogeneous points"
    batch, _, height, width = depth.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=depth.dtype, device=depth.device),
        torch.arange(width, dtype=depth.dtype, device=depth.device),
        indexing="ij",
    )
    pixels = torch.stack([x.reshape(-1), y.reshape(-1), torch.ones_like(x).reshape(-1)])
    pixels = pixels[None].repeat(batch, 1, 1)
    points = torch.matmul(torch.linalg.inv(K), pixels) * depth.view(batch, 1, -1)
    points = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    seen = torch.matmul(torch.matmul(K, T[:, :3]), points)
    places = (seen[:, :2] / (seen[:, 2:] + 1e-7)).view(batch, 2, height, width)
    places = places.permute(0, 2, 3, 1)
    limit = torch.tensor([width - 1, height - 1], dtype=depth.dtype, device=depth.device)
    grid = (places / limit - 0.5) * 2
    return F.grid_sample(source, grid, padding_mode="border", align_corners=True)


def phase2_block(
    target: Tensor,  # (B,3,H,W) x_t, colour in [0,1]
    sources: list[Tensor],  # (B,3,H,W) each
    coded_tgt: list[Tensor],  # f_T(x_t), fine -> coarse, in [-1,1]
    coded_src: list[list[Tensor]],  # f_T(x_{t'}) of each source
    T_src_tgt: list[Tensor],  # (B,4,4) each
    K: Tensor,  # (B,3,3) pixels
    max_depth: float = 80.0,  # metres at code +1
) -> Tensor:  # scalar
    "Eq. 10 over all scales, two sources, both directions"
    size, total = target.shape[-2:], 0.0

    def depth_of(coded: Tensor) -> Tensor:
        full = F.interpolate(coded, size, mode="bilinear", align_corners=False)
        return ((full + 1) * (max_depth / 2)).clamp(0.01, max_depth)

    for scale in range(len(coded_tgt)):
        errors, still = [], []
        for source, T in zip(sources, T_src_tgt):
            warped = warp(source, depth_of(coded_tgt[scale]), T, K)
            errors.append(reprojection_error(warped, target))
            still.append(reprojection_error(source, target).detach())
        error = torch.cat(errors, 1).min(1, keepdim=True).values
        mask = (torch.cat(still, 1).min(1, keepdim=True).values > error + TIE).float()
        loss = (error * mask).mean()
        for source, coded, T in zip(sources, coded_src, T_src_tgt):
            warped = warp(target, depth_of(coded[scale]), torch.linalg.inv(T), K)
            error = reprojection_error(warped, source)
            mask = (reprojection_error(target, source).detach() > error + TIE).float()
            loss = loss + (error * mask).mean() / len(sources)
        total = total + loss
    return total / len(coded_tgt)


class DecodingClips:
    "Triplets of pictures, each decoded and resized when its sample is asked for"

    def __init__(
        self,
        clips: Sequence[Sequence[str]],  # the three files of each sample
        size: tuple[int, int],  # (height, width) wanted
    ) -> None:
        self.clips, self.size = clips, size

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> list[Tensor]:  # (3,H,W) each, colour in [0,1]
        images = []
        for file in self.clips[index]:
            with Image.open(file) as picture:
                pixels = torch.from_numpy(np.array(picture.convert("RGB")))
            image = pixels.permute(2, 0, 1)[None].float()
            small = F.interpolate(
                image, self.size, mode="bilinear", align_corners=False, antialias=True
            )
            images.append(small[0].clamp(0, 255).round() / 255)
        return images

    def batch(self, indices: Sequence[int]) -> list[Tensor]:  # (B,3,H,W) of each place
        return [torch.stack(frames) for frames in zip(*(self[i] for i in indices))]


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    "(h,w) -> (H,W), bilinear, edges and not centres stay together"
    height, width = values.shape
    v = np.clip((np.arange(size[0]) + 0.5) * height / size[0] - 0.5, 0, height - 1)
    u = np.clip((np.arange(size[1]) + 0.5) * width / size[1] - 0.5, 0, width - 1)
    top, left = np.floor(v).astype(int), np.floor(u).astype(int)
    low, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u = (v - top)[:, None], (u - left)[None]
    upper = values[top][:, left] * (1 - u) + values[top][:, right] * u
    lower = values[low][:, left] * (1 - u) + values[low][:, right] * u
    return upper * (1 - v) + lower * v


def depth_scores(
    preds: Sequence[np.ndarray],  # (h,w) metres each
    truths: Sequence[np.ndarray],  # (H,W) metres each, 0 = no value
    low: float,  # metres; truth must be greater
    high: float,  # metres; truth must be less
) -> np.ndarray:  # (7,) mean over the images: AbsRel, SqRel, RMSE, RMSE log, and three shares
    "Scores of a set, Garg's crop, whole maps enlarged one by one"
    rows = []
    for pred, truth in zip(preds, truths):
        height, width = truth.shape
        full = _enlarged(pred.astype(np.float64), truth.shape)
        mask = np.logical_and(truth > low, truth < high)
        crop = np.array([0.40810811, 0.99189189, 0.03594771, 0.96405229])
        crop = (crop * [height, height, width, width]).astype(np.int32)
        inside = np.zeros(mask.shape)
        inside[crop[0] : crop[1], crop[2] : crop[3]] = 1
        mask = np.logical_and(mask, inside)
        p, g = full[mask], truth[mask].astype(np.float64)
        p[p < low] = low
        p[p > high] = high
        ratio = np.maximum(g / p, p / g)
        shares = [(ratio < 1.25**k).mean() for k in (1, 2, 3)]
        rmse = np.sqrt(((g - p) ** 2).mean())
        rmse_log = np.sqrt(((np.log(g) - np.log(p)) ** 2).mean())
        abs_rel, sq_rel = np.mean(np.abs(g - p) / g), np.mean((g - p) ** 2 / g)
        rows.append([abs_rel, sq_rel, rmse, rmse_log, *shares])
    return np.mean(rows, 0)
