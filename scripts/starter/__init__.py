"""Recipe of the starter model: a small latent-diffusion text-to-image model trained from scratch on emoji art.

Each module is one numbered step of the recipe (see README.md in this folder) and one command::

    python -m scripts.starter.<step> --help
"""
