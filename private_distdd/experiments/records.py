"""A sweep's records, as a list that a console or a notebook shows as a table of its points."""

from __future__ import annotations

from private_distdd.experiments.page import shown_score
from private_distdd.experiments.results import points
from private_distdd.experiments.run import DONE, Record
from private_distdd.release.html import safe
from private_distdd.rounding import rounded_up


class Records(list[Record]):
    """Records of cells, in their order; shown with one line for cells that differ in their seed only."""

    def _head(self) -> str:
        failed = sum(record["status"] != DONE for record in self)
        return f"{len(self)} cells" + (f", {failed} failed" if failed else "")

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            (point.label, rounded_up(point.epsilon()), shown_score(point.score()))
            for point in points(self)
            if point.done
        ]

    def __repr__(self) -> str:
        rows = [("method", "epsilon", "accuracy"), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._head(), *lines])

    def _repr_html_(self) -> str:
        body = "".join(f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        head = "<tr><th>method</th><th>epsilon</th><th>accuracy</th></tr>"
        return f"<p>{safe(self._head())}</p><table><thead>{head}</thead><tbody>{body}</tbody></table>"
