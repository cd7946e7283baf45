"""The weights of a checkpoint as floats, some rows at a time."""

from torch import Tensor

from baichuan_core.checkpoint import TensorReader
from baichuan_core.checkpoint.parallel_writer import PlannedTensor


def stored(reader: TensorReader, name: str) -> PlannedTensor:
    """A tensor as it is in the file."""
    tensor = reader.read(name)

    def rows(start: int, stop: int) -> Tensor:
        whole = reader.read(name)
        return whole[start:stop] if whole.dim() else whole

    return PlannedTensor(name, tensor.dtype, tuple(tensor.shape), rows)


class DenseTensors:
    """The tensors of a checkpoint under their published names.

    Args:
        reader: The checkpoint; must stay open while rows are read.
    """

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader

    def tensor(self, name: str) -> PlannedTensor:
        """One of them."""
        return stored(self._reader, name)
