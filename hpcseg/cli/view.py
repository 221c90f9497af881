"""The verb `view`: a packed file, or a prediction, in napari."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcseg.cli import console
from hpcseg.errors import ConfigError

if TYPE_CHECKING:
    from hpcseg.predict.view import Scene, ShownLayer


def view(
    path: Annotated[Path, typer.Argument(metavar="OUT or PACKED", help="Folder of a prediction, or a packed file.")],
) -> None:
    """Look at slices with their labels over them in napari, in the right proportions where the voxel size is known."""
    from hpcseg.predict.view import open_scene

    scene = open_scene(path)
    try:
        import dask.array
        import napari
    except ImportError as error:
        raise ConfigError(
            f"`hpcseg view` needs napari, and {error.name} is not installed. Install it with "
            "`pip install 'hpcseg[napari]'`, or look at the sheet that `hpcseg pack` and `hpcseg predict` write."
        ) from None
    if scene.voxel is None:
        console.stdout.print("The files do not say how large a voxel is, so it is shown as a cube.")
    else:
        console.stdout.print(f"Voxels of {scene.voxel.text()}")
    viewer = napari.Viewer(title=f"hpcseg {path}")
    for layer in scene.layers:
        add = viewer.add_labels if layer.are_labels else viewer.add_image
        add(_lazily(scene, layer, dask.array), name=layer.name, **_placed(scene, layer))
    napari.run()


def _lazily(scene: Scene, layer: ShownLayer, dask_array: Any) -> Any:
    """The stack as a dask array with a chunk per slice, of which a viewer reads those that it shows."""
    slices, height, width = scene.shape

    def read(block_info: Any = None) -> Any:
        first = block_info[None]["array-location"][0][0]
        return layer.read(first)[None]

    return dask_array.map_blocks(
        read, chunks=((1,) * slices, (height,), (width,)), dtype=layer.dtype, meta=layer.dtype.type(0)
    )


def _placed(scene: Scene, layer: ShownLayer) -> dict[str, Any]:
    """How a layer lies in space, and over the one below."""
    place: dict[str, Any] = {} if scene.voxel is None else {"scale": scene.voxel.sizes}
    if layer.are_labels:
        return {**place, "opacity": 0.45}
    return place if layer.name == "slices" else {**place, "visible": False}
