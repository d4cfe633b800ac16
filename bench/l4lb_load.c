/* What connects and what accepts, for the benchmarks of the layer-4 load balancer.
 *
 *   l4lb_load serve MODE PORT ADDRESS...
 *       MODE: close (at once), rst (likewise, with a reset), echo (bytes until the client closes).
 *       Prints one line of JSON when it listens, and after each line on standard input what has
 *       happened since the start: {"accepted": {ADDRESS: n, ...}, "cpu_s": s}. Ends with its input.
 *   l4lb_load connect [OPTION VALUE]... ADDRESS:PORT...
 *       threads N, count N (connections in all, 0: no bound), seconds S, rate R (a second, in all;
 *       0: as fast as it goes), close fin|rst|eof (eof: only after the server has closed), exchange
 *       0|1 (one byte there and back before), ports FIRST-LAST (source ports, in turn; each thread
 *       has its part of them), from A,B,... (source addresses, by thread), timeout S.
 *       The addresses are taken in turn. Prints one line of JSON: see `report`.
 *   l4lb_load pingpong COUNT ADDRESS:PORT
 *       One connection, COUNT bytes there and back, one after the other; the same line. Best on
 *       the processor of the server: that of another one has to wake up each time.
 *
 * Times are of connect() alone, from a call to its return, and of a byte there and back.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_ADDRESSES 64
#define MAX_THREADS 512
#define MAX_ERRNO 134
/* Latencies are counted with a precision of 1 in 64: 64 steps for each power of two nanoseconds. */
#define STEP_BITS 6
#define STEPS (1 << STEP_BITS)
#define BUCKETS (STEPS * 48)

typedef unsigned long long u64;

static void die(const char *what) {
    fprintf(stderr, "l4lb_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void usage(const char *what) {
    fprintf(stderr, "l4lb_load: bad argument %s\n", what);
    exit(2);
}

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000ULL + (u64)t.tv_nsec;
}

static double cpu_s(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec)
        + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* -- addresses ---------------------------------------------------------------------------- */

struct place {
    struct sockaddr_storage at;
    socklen_t size;
};

static struct place place(const char *address, int port) {
    struct place p = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&p.at;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&p.at;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((unsigned short)port);
        p.size = sizeof *v4;
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((unsigned short)port);
        p.size = sizeof *v6;
    } else
        usage(address);
    return p;
}

/* `address:port`, an IPv6 address in brackets. */
static struct place endpoint(const char *text) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", text);
    char *colon = strrchr(copy, ':');
    if (!colon)
        usage(text);
    *colon = 0;
    int port = atoi(colon + 1);
    size_t length = strlen(copy);
    if (copy[0] == '[' && length && copy[length - 1] == ']') {
        copy[length - 1] = 0;
        return place(copy + 1, port);
    }
    return place(copy, port);
}

static void set_port(struct place *p, int port) {
    if (p->at.ss_family == AF_INET)
        ((struct sockaddr_in *)&p->at)->sin_port = htons((unsigned short)port);
    else
        ((struct sockaddr_in6 *)&p->at)->sin6_port = htons((unsigned short)port);
}

static void on(int fd, int level, int option) {
    int one = 1;
    setsockopt(fd, level, option, &one, sizeof one);
}

static void reset_at_close(int fd) {
    struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* -- server ------------------------------------------------------------------------------- */

static int echo(int fd) {
    char bytes[4096];
    for (;;) {
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 1;
        if (n <= 0 || write(fd, bytes, (size_t)n) != n)
            return 0;
    }
}

static int serve(int argc, char **argv) {
    const char *mode = argv[0];
    int port = atoi(argv[1]), count = argc - 2;
    int echoes = !strcmp(mode, "echo"), resets = !strcmp(mode, "rst");
    if (!echoes && !resets && strcmp(mode, "close"))
        usage(mode);
    if (count < 1 || count > MAX_ADDRESSES)
        usage("number of addresses");
    char **addresses = argv + 2;
    u64 accepted[MAX_ADDRESSES] = {0};
    int listeners[MAX_ADDRESSES], poll = epoll_create1(EPOLL_CLOEXEC);
    /* Numbers below `count` are listeners, `count` is standard input, above are connections. */
    for (int i = 0; i <= count; i++) {
        int fd = 0;
        if (i < count) {
            struct place p = place(addresses[i], port);
            fd = socket(p.at.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
            on(fd, SOL_SOCKET, SO_REUSEADDR);
            if (bind(fd, (struct sockaddr *)&p.at, p.size) || listen(fd, 65535))
                die(addresses[i]);
            listeners[i] = fd;
        }
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = (u64)i};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e))
            die("epoll_ctl");
    }
    /* Clients that are faster than we accept would measure the length of the queue. */
    if (setpriority(PRIO_PROCESS, 0, -10))
        die("setpriority");
    printf("{\"ready\": true}\n");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(poll, events, 256, -1);
        for (int k = 0; k < n; k++) {
            u64 which = events[k].data.u64;
            if (which > (u64)count) {
                int fd = (int)(which - (u64)count - 1);
                if (!echo(fd))
                    close(fd);
            } else if (which == (u64)count) {
                char line[64];
                if (read(0, line, sizeof line) <= 0)
                    return 0;
                printf("{\"accepted\": {");
                for (int i = 0; i < count; i++)
                    printf("%s\"%s\": %llu", i ? ", " : "", addresses[i], accepted[i]);
                printf("}, \"cpu_s\": %.6f}\n", cpu_s());
                fflush(stdout);
            } else
                /* Not more than some at a time, so that one address does not starve the others. */
                for (int some = 0; some < 64; some++) {
                    int fd = accept4(listeners[which], NULL, NULL, SOCK_NONBLOCK);
                    if (fd < 0)
                        break;
                    accepted[which]++;
                    if (!echoes) {
                        if (resets)
                            reset_at_close(fd);
                        close(fd);
                        continue;
                    }
                    on(fd, IPPROTO_TCP, TCP_NODELAY);
                    struct epoll_event e = {
                        .events = EPOLLIN, .data.u64 = (u64)fd + (u64)count + 1};
                    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e);
                }
        }
    }
}

/* -- client ------------------------------------------------------------------------------- */

struct figures {
    u64 done, busy, failed[MAX_ERRNO], buckets[BUCKETS], max_ns, failed_max_ns, late_max_ns;
};

static int bucket(u64 ns) {
    if (ns < STEPS)
        return (int)ns;
    int power = 63 - __builtin_clzll(ns);
    int step = (int)(ns >> (power - STEP_BITS)) & (STEPS - 1);
    int found = (power - STEP_BITS + 1) * STEPS + step;
    return found < BUCKETS ? found : BUCKETS - 1;
}

/* The middle of a bucket, in nanoseconds. */
static double middle(int found) {
    if (found < STEPS)
        return found;
    int power = found / STEPS - 1 + STEP_BITS, step = found % STEPS;
    double width = (double)(1ULL << (power - STEP_BITS));
    return ((double)(STEPS + step) + 0.5) * width;
}

static void count_one(struct figures *f, u64 took_ns) {
    f->done++;
    f->buckets[bucket(took_ns)]++;
    if (took_ns > f->max_ns)
        f->max_ns = took_ns;
}

static void count_failure(struct figures *f, int error, u64 took_ns) {
    /* The source port is still in use here: nothing has been sent. */
    if (error == EADDRNOTAVAIL || error == EADDRINUSE) {
        f->busy++;
        return;
    }
    f->failed[error > 0 && error < MAX_ERRNO ? error : 0]++;
    if (took_ns > f->failed_max_ns)
        f->failed_max_ns = took_ns;
}

static double percentile(const struct figures *f, double share) {
    u64 wanted = (u64)((double)f->done * share), seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += f->buckets[i]) > wanted)
            return middle(i);
    return (double)f->max_ns;
}

static void report(const struct figures *f, double seconds) {
    u64 failures = 0;
    int first = 1;
    printf("{\"connections\": %llu, \"errors\": {", f->done);
    for (int i = 0; i < MAX_ERRNO; i++)
        if (f->failed[i]) {
            const char *name = i ? strerrorname_np(i) : "OTHER";
            printf("%s\"%s\": %llu", first ? "" : ", ", name ? name : "OTHER", f->failed[i]);
            failures += f->failed[i];
            first = 0;
        }
    printf("}, \"failures\": %llu, \"busy\": %llu, \"seconds\": %.6f, \"rate\": %.3f, ", failures,
           f->busy, seconds, seconds > 0 ? (double)f->done / seconds : 0);
    printf("\"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, \"max_us\": %.3f, ",
           percentile(f, 0.5) / 1e3, percentile(f, 0.99) / 1e3, percentile(f, 0.999) / 1e3,
           (double)f->max_ns / 1e3);
    printf("\"failed_max_us\": %.3f, \"late_max_us\": %.3f, \"cpu_s\": %.6f}\n",
           (double)f->failed_max_ns / 1e3, (double)f->late_max_ns / 1e3, cpu_s());
}

enum close_mode { FIN, RST, END };

static struct {
    int threads, first_port, last_port, exchange, targets, sources;
    enum close_mode close;
    u64 count;
    double seconds, rate, timeout_s;
    struct place target[MAX_ADDRESSES], source[MAX_ADDRESSES];
} plan = {.threads = 1, .seconds = 1.0, .timeout_s = 10.0};

static u64 begin_ns, end_ns, taken;

struct worker {
    pthread_t thread;
    int number;
    struct figures figures;
};

/* Wait for the server's end, so that the client has no TIME_WAIT. */
static int drain(int fd) {
    char bytes[256];
    ssize_t n;
    while ((n = read(fd, bytes, sizeof bytes)) > 0)
        ;
    return n < 0 ? errno : 0;
}

static int exchange(int fd) {
    char byte = 'x';
    if (write(fd, &byte, 1) != 1)
        return errno;
    ssize_t n = read(fd, &byte, 1);
    return n == 1 ? 0 : n == 0 ? EPIPE : errno;
}

/* One connection to `target` from a port (0: any); the error, or 0. */
static int connect_once(const struct place *target, const struct place *source, int port,
                        u64 *took_ns) {
    int fd = socket(target->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), error = 0;
    *took_ns = 0;
    if (fd < 0)
        return errno;
    struct timeval limit = {(time_t)plan.timeout_s,
                            (long)((plan.timeout_s - (double)(time_t)plan.timeout_s) * 1e6)};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (source) {
        struct place own = *source;
        set_port(&own, port);
        on(fd, SOL_SOCKET, SO_REUSEADDR);
        if (!port)
            on(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
        if (bind(fd, (struct sockaddr *)&own.at, own.size))
            error = errno;
    }
    if (!error) {
        u64 start = now_ns();
        if (connect(fd, (const struct sockaddr *)&target->at, target->size))
            /* What connect() says when SO_SNDTIMEO is over. */
            error = errno == EINPROGRESS ? ETIMEDOUT : errno;
        *took_ns = now_ns() - start;
    }
    if (!error && plan.exchange)
        error = exchange(fd);
    if (!error && plan.close == END)
        error = drain(fd);
    if (plan.close == RST)
        reset_at_close(fd);
    close(fd);
    return error;
}

static void sleep_until(u64 ns) {
    struct timespec t = {(time_t)(ns / 1000000000ULL), (long)(ns % 1000000000ULL)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

static void *work(void *argument) {
    struct worker *w = argument;
    struct place any = {0};
    const struct place *source = plan.sources ? &plan.source[w->number % plan.sources] : NULL;
    int width = 0, first = 0;
    if (plan.first_port) {
        width = (plan.last_port - plan.first_port + 1) / plan.threads;
        first = plan.first_port + w->number * width;
        if (!source) {
            any.at.ss_family = plan.target[0].at.ss_family;
            any.size = plan.target[0].size;
            source = &any;
        }
    }
    sleep_until(begin_ns);
    for (u64 mine = 0;; mine++) {
        u64 number = __atomic_fetch_add(&taken, 1, __ATOMIC_RELAXED);
        if (plan.count && number >= plan.count)
            break;
        u64 now = now_ns();
        if (plan.rate > 0) {
            u64 due = begin_ns + (u64)((double)number / plan.rate * 1e9);
            if (due >= end_ns)
                break;
            if (due > now) {
                sleep_until(due);
                now = now_ns();
            }
            if (now - due > w->figures.late_max_ns)
                w->figures.late_max_ns = now - due;
        }
        if (now >= end_ns)
            break;
        u64 took_ns;
        int port = width ? first + (int)(mine % (u64)width) : 0;
        int error = connect_once(&plan.target[number % (u64)plan.targets], source, port, &took_ns);
        if (error)
            count_failure(&w->figures, error, took_ns);
        else
            count_one(&w->figures, took_ns);
    }
    return NULL;
}

static void option(const char *name, char *value) {
    if (!strcmp(name, "threads"))
        plan.threads = atoi(value);
    else if (!strcmp(name, "count"))
        plan.count = strtoull(value, NULL, 10);
    else if (!strcmp(name, "seconds"))
        plan.seconds = atof(value);
    else if (!strcmp(name, "rate"))
        plan.rate = atof(value);
    else if (!strcmp(name, "timeout"))
        plan.timeout_s = atof(value);
    else if (!strcmp(name, "exchange"))
        plan.exchange = atoi(value);
    else if (!strcmp(name, "close"))
        plan.close = !strcmp(value, "rst") ? RST : !strcmp(value, "eof") ? END : FIN;
    else if (!strcmp(name, "ports")) {
        if (sscanf(value, "%d-%d", &plan.first_port, &plan.last_port) != 2)
            usage(value);
    } else if (!strcmp(name, "from")) {
        for (char *one = strtok(value, ","); one; one = strtok(NULL, ","))
            if (plan.sources < MAX_ADDRESSES)
                plan.source[plan.sources++] = place(one, 0);
    } else
        usage(name);
}

static int connect_all(int argc, char **argv) {
    int i = 0;
    for (; i + 1 < argc && !strchr(argv[i], ':'); i += 2)
        option(argv[i], argv[i + 1]);
    for (; i < argc && plan.targets < MAX_ADDRESSES; i++)
        plan.target[plan.targets++] = endpoint(argv[i]);
    if (!plan.targets)
        usage("number of targets");
    if (plan.threads < 1 || plan.threads > MAX_THREADS)
        usage("threads");
    if (plan.first_port && plan.last_port - plan.first_port + 1 < plan.threads)
        usage("ports: fewer than threads");
    struct worker *workers = calloc((size_t)plan.threads, sizeof *workers);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 * 1024);
    /* All begin together, once they are there. */
    begin_ns = now_ns() + 20000000ULL;
    end_ns = begin_ns + (u64)(plan.seconds * 1e9);
    for (int k = 0; k < plan.threads; k++) {
        workers[k].number = k;
        if (pthread_create(&workers[k].thread, &small, work, &workers[k]))
            die("pthread_create");
    }
    struct figures sum = {0};
    for (int k = 0; k < plan.threads; k++) {
        pthread_join(workers[k].thread, NULL);
        const struct figures *f = &workers[k].figures;
        sum.done += f->done;
        sum.busy += f->busy;
        for (int e = 0; e < MAX_ERRNO; e++)
            sum.failed[e] += f->failed[e];
        for (int b = 0; b < BUCKETS; b++)
            sum.buckets[b] += f->buckets[b];
        if (f->max_ns > sum.max_ns)
            sum.max_ns = f->max_ns;
        if (f->failed_max_ns > sum.failed_max_ns)
            sum.failed_max_ns = f->failed_max_ns;
        if (f->late_max_ns > sum.late_max_ns)
            sum.late_max_ns = f->late_max_ns;
    }
    report(&sum, (double)(now_ns() - begin_ns) / 1e9);
    return 0;
}

static int pingpong(char **argv) {
    u64 count = strtoull(argv[0], NULL, 10);
    struct place p = endpoint(argv[1]);
    int fd = socket(p.at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    on(fd, IPPROTO_TCP, TCP_NODELAY);
    struct timeval limit = {10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&p.at, p.size))
        die(argv[1]);
    static struct figures figures;
    u64 start = now_ns();
    for (u64 i = 0; i < count; i++) {
        u64 before = now_ns();
        int error = exchange(fd);
        u64 took_ns = now_ns() - before;
        if (error) {
            count_failure(&figures, error, took_ns);
            break;
        }
        count_one(&figures, took_ns);
    }
    report(&figures, (double)(now_ns() - start) / 1e9);
    return 0;
}

int main(int argc, char **argv) {
    if (argc >= 5 && !strcmp(argv[1], "serve"))
        return serve(argc - 2, argv + 2);
    if (argc >= 3 && !strcmp(argv[1], "connect"))
        return connect_all(argc - 2, argv + 2);
    if (argc == 4 && !strcmp(argv[1], "pingpong"))
        return pingpong(argv + 2);
    usage(argc > 1 ? argv[1] : "(none): serve, connect or pingpong");
}
