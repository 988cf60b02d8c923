"""What Parallama costs, measured against a bare aiohttp proxy and against no proxy. `make bench` runs it.

`__main__` reads the options, `systems` starts the processes, `rounds` measures, `report` writes. It needs Linux: CPU
time and memory are read from /proc.
"""
