"""What is raised where processes cannot go on together."""


class RanksDiffer(RuntimeError):
    """The processes of a run are not of one kind: another version, script, configuration, model, or another exchange."""


class RankFailed(RuntimeError):
    """Another process of the run could not do its part; the message has its number and its error."""
