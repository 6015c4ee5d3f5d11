/* Life in the sandbox that Android puts apps in. */
#ifndef MB_RUNNER_SANDBOX_H
#define MB_RUNNER_SANDBOX_H

/* From here on a system call that the sandbox traps fails with ENOSYS, instead of ending the process. Call it first. */
void sandbox_begin(void);

#endif
