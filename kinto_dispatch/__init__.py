"""kinto-dispatch: a committed Kinto change reaches its channels, a rolled-back one never does."""
