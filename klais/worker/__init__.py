"""The worker without Faust: lanes, recovery, checkpoints, outputs, report and web views."""
