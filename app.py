"""``python app.py`` is ``diffusion-local serve``."""

import sys

from diffusion_local.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "serve")
    main()
