"""Makes the pictures of the pages again: `python docs/hooks/pictures.py PAGE ...` runs the Python of each page, in an
empty folder, and takes what the page both writes and shows into docs/pictures.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parents[1] / "pictures"


def make(page):
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if page.name == "editing.md":
            subprocess.run([sys.executable, "-m", "evenflow", "train", "digits", "--quiet"], check=True)
        names = {}
        for code in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
            exec(compile(code, str(page), "exec"), names)
        for name in re.findall(r"pictures/([\w.]+\.png)", text):
            if os.path.exists(name):
                picture = Image.open(name).convert("RGB")
                picture.quantize(128).save(PICTURES / name, optimize=True)
                print(name, picture.size, f"{os.path.getsize(PICTURES / name):,} bytes")
        os.chdir(PICTURES)


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"
    for page in [Path(name).resolve() for name in sys.argv[1:]]:
        make(page)
