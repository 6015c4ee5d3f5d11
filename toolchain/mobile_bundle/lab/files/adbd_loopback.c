/* Preloaded into Debian's adbd, which would listen on every interface and on vsock. It gets the socket that the lab has
 * bound to 127.0.0.1 instead: as its standard input, in place of the first one that it binds to an Internet address.
 * A socket stays in the network namespace it was made in, so the device needs no network of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int listener = -1;

__attribute__((constructor)) static void take_listener(void) {
  unsetenv("LD_PRELOAD"); /* not for the shells that adbd starts */
  listener = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
  const int nothing = open("/dev/null", O_RDONLY);
  if (nothing >= 0) {
    dup2(nothing, STDIN_FILENO);
    close(nothing);
  }
}

int socket(int domain, int type, int protocol) {
  if (domain == AF_VSOCK) {
    errno = EAFNOSUPPORT;
    return -1;
  }
  int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
  return real(domain, type, protocol);
}

int bind(int file, const struct sockaddr *address, socklen_t length) {
  if (listener >= 0 && (address->sa_family == AF_INET || address->sa_family == AF_INET6)) {
    const int taken = dup3(listener, file, O_CLOEXEC);
    close(listener);
    listener = -1;
    return taken < 0 ? -1 : 0;
  }
  int (*real)(int, const struct sockaddr *, socklen_t) =
      (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
  return real(file, address, length);
}
