/* The sandbox's filter knows the system calls of the C library of its time, and traps all others. A newer C library
 * tries newer calls and falls back to old ones where it gets ENOSYS: musl on 32-bit ARM asks for clock_gettime64 and
 * statx, of which Android 8 to 10 have never heard. */
#include "runner/sandbox.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

static void refuse(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)info;
  ucontext_t *interrupted = context;
#if defined(__x86_64__)
  interrupted->uc_mcontext.gregs[REG_RAX] = -ENOSYS;
#elif defined(__aarch64__)
  interrupted->uc_mcontext.regs[0] = (unsigned long long)-ENOSYS;
#elif defined(__arm__)
  interrupted->uc_mcontext.arm_r0 = (unsigned long)-ENOSYS;
#else
#error "name the register that holds a system call's result"
#endif
}

void sandbox_begin(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = refuse;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSYS, &action, NULL);
}
