"""`python -m gnomon`, and `torchrun -m gnomon`: the command line."""

from gnomon.cli import main

main()
