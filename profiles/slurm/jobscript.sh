#!/bin/sh
# properties = {properties}
# SLURM signals every process of a job; without a trap this shell would end at once, and with it the job, before the
# run has saved its checkpoint.
trap : TERM
{exec_job}
