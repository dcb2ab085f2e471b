/*
 * Preloaded (LD_PRELOAD) by tests: shifts the wall clock of one process by the seconds in the file CLOCK_SHIFT_FILE.
 * The file is read at every call, so a test can step the clock of a running process. CLOCK_MONOTONIC stays as it is.
 * Waits that end at a wall-clock time are given the real time, or they would last as long as the clock is off.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long shift_s(void)
{
	static const char *file;
	char text[32];
	ssize_t got = 0;
	int fd;

	if (!file)
		file = getenv("CLOCK_SHIFT_FILE");
	if (!file || (fd = open(file, O_RDONLY | O_CLOEXEC)) < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return 0;
	text[got] = 0;
	return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = syscall(SYS_clock_gettime, clock, now);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += shift_s();
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec t;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &t);
	if (now) {
		now->tv_sec = t.tv_sec;
		now->tv_usec = t.tv_nsec / 1000;
	}
	return 0;
}

time_t time(time_t *out)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	if (out)
		*out = t.tv_sec;
	return t.tv_sec;
}

int timespec_get(struct timespec *now, int base)
{
	clock_gettime(CLOCK_REALTIME, now);
	return base;
}

static struct timespec real(const struct timespec *until)
{
	struct timespec t = *until;

	t.tv_sec -= shift_s();
	return t;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
			   const struct timespec *restrict until)
{
	/* dlsym alone would find the ABI of before 2003, which has another pthread_cond_t. */
	static __typeof__(&pthread_cond_timedwait) next;
	struct timespec t;

	/* A condition that waits by CLOCK_MONOTONIC gives times since boot: nothing to correct there. */
	t = until->tv_sec > 1000000000L || until->tv_sec + shift_s() < 0 ? real(until) : *until;
	if (!next)
		next = (__typeof__(next))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
	return next(cond, mutex, &t);
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until)
{
	struct timespec t = real(until);

	return NEXT(sem_timedwait)(sem, &t);
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until)
{
	struct timespec t = real(until);

	return NEXT(cnd_timedwait)(cond, mutex, &t);
}

int mtx_timedlock(mtx_t *restrict mutex, const struct timespec *restrict until)
{
	struct timespec t = real(until);

	return NEXT(mtx_timedlock)(mutex, &t);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
	struct timespec t = real(until);

	return NEXT(pthread_mutex_timedlock)(mutex, &t);
}
