"""`python -m mtan_jax.compare`."""

from mtan_jax.compare.command import console

if __name__ == "__main__":
    console()
