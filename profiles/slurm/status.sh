#!/bin/sh
# Print running, success or failed for a job id, from the controller alone. A job that SLURM requeues is still running.
answer=$(scontrol show job --oneliner "$1" 2>&1)
case "$answer" in
*JobState=COMPLETED*) echo success ;;
*JobState=PENDING* | *JobState=RUNNING* | *JobState=COMPLETING* | *JobState=CONFIGURING* | *JobState=SUSPENDED* | \
    *JobState=REQUEUED* | *JobState=RESIZING* | *JobState=STOPPED*) echo running ;;
*JobState=* | *"Invalid job id"*) echo failed ;;
*) echo running ;; # the controller does not answer just now
esac
