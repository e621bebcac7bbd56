"""Pictures: colours, axes, curves, panels and grids of weights."""
