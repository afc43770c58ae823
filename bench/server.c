#include "bench/server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/report.h"

void server_start(server *s, char *const argv[], const char *log_path) {
    int in[2], out[2];
    if (pipe(in) != 0 || pipe(out) != 0)
        report_die("pipe failed");
    s->pid = fork();
    if (s->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* a benchmark that fails leaves nothing behind */
        int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        close(in[1]);
        close(out[0]);
        execv(argv[0], argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    s->stdin_fd = in[1];
    FILE *f = fdopen(out[0], "r");
    char line[256];
    if (!f || !fgets(line, sizeof line, f) || sscanf(line, "listening on %127s", s->address) != 1)
        report_die("%s did not start", argv[0]);
    fclose(f);
}

void server_stop(server *s) {
    int status;
    close(s->stdin_fd);
    kill(s->pid, SIGTERM);
    waitpid(s->pid, &status, 0);
}
