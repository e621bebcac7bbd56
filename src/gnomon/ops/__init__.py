"""How axes pass through operations: one table, ATen name to rule, merged with `|`."""

from gnomon.ops import attention, linear, mixture, norm, pointwise, recurrent, reduce, shape
from gnomon.ops.context import Context, Op, OpRule, Table, broadcast

TABLE: Table = (
    dict(pointwise.TABLE)
    | dict(linear.TABLE)
    | dict(norm.TABLE)
    | dict(shape.TABLE)
    | dict(reduce.TABLE)
    | dict(attention.TABLE)
    | dict(mixture.TABLE)
    | dict(recurrent.TABLE)
)

__all__ = ["TABLE", "Context", "Op", "OpRule", "Table", "broadcast"]
