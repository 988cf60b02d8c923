"""The parts of the simulator (parallama.simulator) and of the test kit (parallama.testing).

From the outside in: server, http, access, then inference, plan, models, text; go is the language they all speak.
faults and recordings are the kit's.
"""
