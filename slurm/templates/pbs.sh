#!/bin/bash
# A job script for PBS Professional, OpenPBS and their kin. Copy it, change what your site wants otherwise, and name it:
#
#     hpcseg grid --submit-with my-pbs.sh --dry-run
#
# hpcseg writes one such script per job. These words in braces it replaces: {name}, {gpus}, {cpus}, {memory_gib},
# {minutes}, {log}, {command}. The two lines below are how you submit a script and cancel a job by its number; they run
# without a shell.
#HPCSEG submit = qsub {script}
#HPCSEG cancel = qdel {id}
#
# Torque, and PBS before 9, spell the next line: nodes=1:ppn={cpus}:gpus={gpus}, with -l mem={memory_gib}gb below it.
#PBS -l select=1:ncpus={cpus}:ngpus={gpus}:mem={memory_gib}gb
# Minutes and seconds. Leave twenty seconds or more between SIGTERM and the end (kill_delay) for the checkpoint.
#PBS -l walltime={minutes}:00
#PBS -N {name}
# A queue and an account, where your site wants them:
##PBS -q gpu
##PBS -A project-123
# All that the job prints goes where `hpcseg logs` finds it, at once, and not when the job has ended.
#PBS -j oe
#PBS -o /dev/null
exec >> {log} 2>&1

# module load cuda
export OMP_NUM_THREADS={cpus}
# With exec the signal of the time limit, or of qdel, reaches the training, which writes its checkpoint.
exec {command}
