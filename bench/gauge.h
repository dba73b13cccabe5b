// What is measured: processor time of other processes, and how long answers took.

#include "common.h"

// The processor time that the processes of pids=1,2,3 have had, all their threads together, in nanoseconds: the kernel
// counts it exactly, not in ticks.
HELPER int64_t processor_time(void) {
    int64_t total = 0;
    for (const char *p = text_option("pids", ""); *p; p += *p == ',') {
        char *end;
        pid_t pid = strtol(p, &end, 10);
        clockid_t clock;
        struct timespec t;
        if (end == p || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
            die(TROUBLE, "process %ld, which is measured, is gone", (long)pid);
        total += t.tv_sec * SECOND + t.tv_nsec;
        p = end;
    }
    return total;
}

// Times in buckets that grow with them: each is at most a 128th wide.

static uint64_t buckets[64 * 128];
static uint64_t times_noted;
static int64_t longest;

HELPER void note_time(int64_t time) {
    uint64_t v = time > 0 ? time : 0;
    int power = v < 128 ? 7 : 63 - __builtin_clzll(v);
    buckets[(power - 7) * 128 + (v >> (power - 7))]++;
    times_noted++;
    if (time > longest) longest = time;
}

// The time that so many in a hundred were within, in seconds.
HELPER double percentile(double percent) {
    uint64_t wanted = times_noted * percent / 100, seen = 0;
    for (int i = 0; i < 64 * 128; i++)
        if ((seen += buckets[i]) > wanted) {
            int power = i < 256 ? 0 : i / 128 - 1;
            return ((double)((uint64_t)(i - power * 128) << power) + (1ULL << power) / 2) / SECOND;
        }
    return (double)longest / SECOND;
}

// The measuring: first a warm-up, then the time that counts, then what is still on its way.

enum { WARMING, MEASURING, DRAINING };

static int phase = WARMING;
static int64_t begin, end, time_used;
static long done, done_before, done_after;

HELPER void start_measuring(void) {
    begin = now() + option("warmup", 0.3) * SECOND;
    end = begin + option("seconds", 1) * SECOND;
}

// To be called often; says whether messages may still be sent.
HELPER bool go_on(void) {
    int64_t t = now();
    if (phase == WARMING && t >= begin) {
        end += t - begin;
        begin = t;
        done_before = done;
        time_used = processor_time();
        phase = MEASURING;
        puts("measuring");
        fflush(stdout);
    } else if (phase == MEASURING && t >= end) {
        end = t;
        done_after = done;
        time_used = processor_time() - time_used;
        phase = DRAINING;
    } else if (phase == DRAINING && t >= end + 20 * SECOND)
        die(WRONG_ANSWER, "no answer: some messages had none after 20 seconds");
    return phase != DRAINING;
}

// A message that was to be sent then is answered.
HELPER void note_answer(int64_t since) {
    done++;
    if (phase != WARMING && since >= begin && since < end) note_time(now() - since);
}

HELPER void report(void) {
    double seconds = (double)(end - begin) / SECOND;
    printf("{\"done\": %ld, \"seconds\": %.6f, \"cpu_seconds\": %.9f, \"p50\": %.9f, \"p90\": %.9f, \"p99\": %.9f, "
           "\"p999\": %.9f, "
           "\"longest\": %.9f}\n",
           done_after - done_before, seconds, (double)time_used / SECOND, percentile(50), percentile(90),
           percentile(99), percentile(99.9), (double)longest / SECOND);
}
