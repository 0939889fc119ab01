"""The plugin of the guide, and its test, are run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


GUIDE = (Path(__file__).parents[2] / "docs/guides/write-a-plugin.md").read_text()


def test_the_plugin_of_the_guide_passes_its_test(tmp_path: Path) -> None:
    """As a file on the path, without an entry point."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)
    (plugin,) = [block for block in blocks if "GuardedSettings" in block]
    (suite,) = [block for block in blocks if "ChannelContract" in block]
    (tmp_path / "pager_channel.py").write_text(plugin)
    named = suite.replace('plugin = "pager"', 'plugin = "pager_channel:PagerChannel"')
    assert named != suite
    (tmp_path / "test_pager.py").write_text(named)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
