"""The check of shown outputs sees what it is for: each doctored page fails, and fails for the reason given."""

from __future__ import annotations

from pathlib import Path

import pytest
from shown import Runner, ShownError, blocks, compare

PAGE = """
Some prose.

```python
x = 2.5
print("one", x)
print("a" * 64)
print("last")
```

<!-- output; masked: hash -->
```text
one 2.5
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
last
```

```python
print(2 * x)
```

<!-- output -->

```text
5.0
```

```sh
printf 'first\\n1\\n2\\nlast\\n'; exit 0
```

<!-- output -->
```text
first
...
last
```
"""


def test_a_true_page_passes(tmp_path: Path) -> None:
    assert Runner(tmp_path).check(PAGE) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("one 2.5\n", "one 2.50001\n", "but printed was"),
        ("one 2.5\n", "two 2.5\n", "but printed was"),
        ("one 2.5\n", "", "but printed was"),
        ("bbbb\nlast\n", "bbbb\nlast\nmore\n", "but printed was"),
        ("bbbb\nlast\n", "bbbb\n", "but printed was"),
        ("x = 2.5", "x = 2.6", "but printed was"),
        ("```text\n5.0", "```text\n4.0", "but printed was"),
        ("<!-- output; masked: hash -->", "<!-- output -->", "but printed was"),
        ("<!-- output; masked: hash -->", "<!-- output; masked: hash loss -->", "no loss is shown"),
        ("<!-- output -->\n```text\nfirst", "```text\nfirst", "without its comment"),
        ("<!-- output -->\n```text\nfirst", "<!-- some output -->\n```text\nfirst", "without its comment"),
        ("```sh", "<!-- not run: it is slow -->\n```sh", "of no command"),
        ("```sh", "<!-- output -->\n```sh", "before a command"),
        ("```sh", "```console", "neither run nor an output"),
        ("exit 0", "exit 3", "exit status 3"),
        ("\nfirst\n...", "\nsecond\n...", "but printed was"),
        ("...\nlast\n", "...\n2\n", "but printed was"),
        ("\nfirst\n...\nlast\n", "\nfirst\nlast\n", "but printed was"),
    ],
)
def test_a_doctored_page_fails(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert PAGE.count(old) == 1
    with pytest.raises(ShownError, match=message):
        Runner(tmp_path).check(PAGE.replace(old, new))


def test_a_block_in_the_middle_is_looked_for_in_order() -> None:
    printed = "a\nb\nc\nd\ne\n"
    compare("a\n...\nc\n...\ne", printed, [], "here")
    compare("...\nd\ne", printed, [], "here")
    for shown in ("...\nd", "b\n...", "a\n...\nx\n...\ne", "a\n...\nd\n...\nc\n...\ne", "a\n...\ne\ne"):
        with pytest.raises(ShownError):
            compare(shown, printed, [], "here")


def test_a_millionth_is_rounding_and_more_is_not() -> None:
    compare("e 3.9972462742", "e 3.9972462743", [], "here")
    for printed in ("e 3.99726", "e 4", "e 3.9972462742 x", "f 3.9972462742"):
        with pytest.raises(ShownError):
            compare("e 3.9972462742", printed, [], "here")


def test_a_long_line_may_be_shown_in_parts() -> None:
    compare("a b \\\nc\nd", "a b c\nd\n", [], "here")
    compare("hash " + "a" * 32 + "\\\n" + "a" * 32, "hash " + "b" * 64, ["hash"], "here")
    for printed in ("a b\nc\nd\n", "a bc\nd\n"):
        with pytest.raises(ShownError):
            compare("a b \\\nc\nd", printed, [], "here")


def test_accuracies_are_masked_and_what_is_around_them_is_not() -> None:
    compare("x | 91.9%  | AUC 0.994", "x | 100.0% | AUC 1.000", ["accuracy", "auc"], "here")
    compare("on S: 91.9% \u00b1 0.3% (convnet)", "on S: 9.2% \u00b1 12.1% (convnet)", ["accuracy"], "here")
    with pytest.raises(ShownError):
        compare("x | 91.9% | 3", "x | 91.9% | 4", ["accuracy"], "here")


def test_the_same_shell_block_is_run_once(tmp_path: Path) -> None:
    page = "```sh\necho x >> file; wc -l < file\n```\n\n<!-- output -->\n```text\n1\n```\n"
    runner = Runner(tmp_path)
    assert runner.check(page) == runner.check(page) == 1


def test_lines_are_those_of_the_page() -> None:
    assert [(block.line, block.language, block.note) for block in blocks(PAGE)][:2] == [
        (4, "python", ""),
        (12, "text", "output; masked: hash"),
    ]
