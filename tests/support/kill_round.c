#include "tests/support/kill_round.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t vv_kill_round(void (*work)(int fd, uint64_t start), uint64_t start, uint64_t count) {
    int fds[2], status;
    cr_assert_eq(pipe(fds), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        close(fds[0]);
        work(fds[1], start);
        _exit(1);
    }
    close(fds[1]);
    uint64_t told = start - 1, n;
    for (uint64_t i = 0; i < count && read(fds[0], &n, sizeof n) == sizeof n; i++)
        told = n;
    kill(pid, SIGKILL);
    while (read(fds[0], &n, sizeof n) == sizeof n)
        told = n; /* before the kill, read after it */
    waitpid(pid, &status, 0);
    close(fds[0]);
    cr_assert(WIFSIGNALED(status), "the child ended by itself: %d", WEXITSTATUS(status));
    return told;
}
