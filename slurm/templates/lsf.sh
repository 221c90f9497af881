#!/bin/bash
# A job script for IBM Spectrum LSF. Copy it, change what your site wants otherwise, and name it:
#
#     hpcseg grid --submit-with my-lsf.sh --dry-run
#
# hpcseg writes one such script per job. These words in braces it replaces: {name}, {gpus}, {cpus}, {memory_gib},
# {minutes}, {log}, {command}. The two lines below are how you submit a script and cancel a job by its number; they run
# without a shell, and bsub reads the script from its standard input.
#HPCSEG submit = bsub < {script}
#HPCSEG cancel = bkill {id}
#
#BSUB -J {name}
#BSUB -n {cpus}
# All cores on one host. Whether memory is for the job or for each core, your site says.
#BSUB -R "span[hosts=1] rusage[mem={memory_gib}GB]"
# Without this line for jobs on CPUs: it must be at least one GPU.
#BSUB -gpu "num={gpus}"
#BSUB -W {minutes}
# A queue and a project, where your site wants them:
##BSUB -q gpu
##BSUB -P project-123
# All that the job prints goes where `hpcseg logs` finds it; without this line it would come by mail.
#BSUB -o /dev/null
exec >> {log} 2>&1

# module load cuda
export OMP_NUM_THREADS={cpus}
# With exec the signal of the time limit, or of bkill, reaches the training, which writes its checkpoint.
exec {command}
