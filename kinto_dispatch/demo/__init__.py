"""The parts of ``kinto-dispatch demo``: the stage with its real servers, and the report."""
