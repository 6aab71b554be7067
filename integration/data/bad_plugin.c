/* A library that is no good plugin. Which mistake it makes is chosen by a macro when it is compiled. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 1
#endif
#ifndef SIZE
#define SIZE sizeof(struct entry)
#endif
#ifndef MAGIC
#define MAGIC "capstan"
#endif
#ifndef RUN
#define RUN run
#endif

struct entry {
	char magic[8];
	uint32_t version;
	uint32_t size;
	uint32_t flags;
	uint32_t reserved;
	int (*run)(int stream, int descriptors);
};

#ifdef INIT
__attribute__((constructor)) static void init(void)
{
	INIT;
}
#endif

/* Until the daemon has had enough. */
static int wait_for_end(int stream)
{
	char buffer[4096];
	while (read(stream, buffer, sizeof buffer) > 0)
		;
	return 0;
}

static int run(int stream, int descriptors)
{
	(void)descriptors;
#ifdef WORDS
	/* As they are, in the order of this machine's bytes. */
	static const uint32_t words[] = { WORDS };
	if (write(stream, words, sizeof words) < 0)
		return 1;
#endif
#ifdef NOISE
	srandom(1);
	for (int i = 0; i < 100000; i++) {
		uint32_t noise = (uint32_t)random();
		if (write(stream, &noise, sizeof noise) < 0)
			break;
	}
#endif
#ifdef RETURN
	return RETURN;
#endif
	return wait_for_end(stream);
}

static const struct entry entry = { MAGIC, VERSION, SIZE, 1, 0, RUN };

#ifndef NO_ENTRY
const struct entry *capstan_plugin(void)
{
#ifdef NO_ANSWER
	return NULL;
#endif
	return &entry;
}
#endif
