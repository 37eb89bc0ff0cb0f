"""The exact fast forms of ``models``: training forward, folded inference, tiled convolution. Imports ``models``
and below."""
