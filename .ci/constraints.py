"""Write `constraints.txt`: the version of each package in this environment.

The first line names the Python whose versions stand without a marker. On another Python, only
versions that differ there are written, each with a marker.
"""

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "constraints.txt"
HEAD = "# `make constraints` writes the versions that CI has seen pass, on Python "
MARKER = "; python_version == "


def main() -> None:
    """Replace the versions of this Python, keep those of others."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    head, *lines = FILE.read_text().splitlines() if FILE.exists() else [HEAD + here]
    first = head.removeprefix(HEAD)
    pins: dict[tuple[str, str], str] = {}
    for line in lines:
        requirement, _, python = line.partition(MARKER)
        name, _, version = requirement.partition("==")
        pins[name, python.strip("'") or first] = version
    pins = {key: version for key, version in pins.items() if key[1] != here}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    frozen = subprocess.check_output([*pip, "freeze", "--exclude-editable"], text=True)
    for line in frozen.splitlines():
        name, _, version = line.partition("==")
        version = version.partition("+")[0]  # 2.13.0 of 2.13.0+cpu, so that any build will do
        if version and (here == first or pins.get((name, first)) != version):
            pins[name, here] = version
    elsewhere = {name for name, python in pins if python != first}
    lines = [
        f"{name}=={version}" + (f"{MARKER}'{python}'" if name in elsewhere else "")
        for (name, python), version in sorted(pins.items(), key=lambda pin: pin[0][0].lower())
    ]
    FILE.write_text("\n".join([HEAD + first, *lines]) + "\n")


if __name__ == "__main__":
    main()
