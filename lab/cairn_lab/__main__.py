"""`python -m cairn_lab`: the same commands as `cairn lab`."""

from cairn_lab.cli import lab

if __name__ == "__main__":
    lab(prog_name="cairn lab")
