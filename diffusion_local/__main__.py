"""``python -m diffusion_local`` is ``diffusion-local``, where the installed program is not on the path."""

from diffusion_local.cli import main

if __name__ == "__main__":
    main()
