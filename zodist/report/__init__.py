"""What a run was, for people: the picture at its end, and ``zodist report`` of one run or several.

Everything comes from the run folder alone; no model is loaded and no training code is asked.

    recorded.py   what a folder holds: journal, metrics, timings, settings, diagnosis
    slopes.py     what the journal's values say of the slopes and of their noise
    charts.py     curves, phases, workers, slopes as SVG
    document.py   the page
    screen.py     the same on a terminal
    picture.py    plot.png, drawn at the end of a run
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
