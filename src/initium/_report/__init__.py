"""A report as data (:mod:`records`) and as people read it: in a terminal, as JSON, as HTML.

Which module does what:

- ``records``: what was measured and found.
- ``words``: the verdict, the loss and the numbers in plain words; shared by all views.
- ``depth``: the layers in the order of the forward pass, and which of them to show.
- ``charts``: logarithmic scales and paths of the curves through depth.
- ``terminal``, ``html``, ``story``: the views. ``files``: writing them, at once or not at all.
"""
