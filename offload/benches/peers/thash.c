/*
 * Hashes tuples with DPDK's Toeplitz hashes.
 *
 * Reads commands from standard input and answers each with one line:
 *   d WORDS 0        exclusive or of the hashes of all tuples of so many words, by rte_softrss_be and by rte_thash_gfni
 *   s WORDS COUNT    COUNT times all tuples with rte_softrss_be; nanoseconds for all
 *   g WORDS COUNT    the same with rte_thash_gfni
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <rte_byteorder.h>
#include <rte_thash.h>

#define TUPLES 32
#define WORDS 9

static const uint8_t key[40] = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
};
static uint8_t converted[40];
static uint64_t matrices[40];
static uint32_t tuples[TUPLES][WORDS];
static uint32_t network[TUPLES][WORDS];

static uint32_t all(char kind, uint32_t words)
{
	uint32_t sum = 0;
	for (int n = 0; n < TUPLES; n++) {
		if (kind == 's')
			sum ^= rte_softrss_be(tuples[n], words, converted);
		else
			sum ^= rte_thash_gfni(matrices, (const uint8_t *)network[n], words * 4);
	}
	return sum;
}

static uint64_t measure(char kind, uint32_t words, unsigned long times)
{
	struct timespec start, end;
	volatile uint32_t sink;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (unsigned long n = 0; n < times; n++) {
		__asm__ volatile("" ::: "memory");
		sink = all(kind, words);
	}
	(void)sink;
	clock_gettime(CLOCK_MONOTONIC, &end);
	return (uint64_t)(end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec;
}

int main(void)
{
	char line[64];
	int gfni = 0;
#if defined(__GFNI__) && defined(__AVX512F__)
	/* rte_thash_gfni_supported() asks the EAL, which is not needed here. */
	gfni = __builtin_cpu_supports("gfni") != 0;
#endif
	rte_convert_rss_key((const uint32_t *)key, (uint32_t *)converted, sizeof key);
	rte_thash_complete_matrix(matrices, key, sizeof key);
	for (uint32_t n = 0; n < TUPLES; n++) {
		for (uint32_t word = 0; word < WORDS; word++) {
			tuples[n][word] = (n * WORDS + word + 1) * 0x9e3779b9u;
			network[n][word] = rte_cpu_to_be_32(tuples[n][word]);
		}
	}
	while (fgets(line, sizeof line, stdin)) {
		unsigned words = 3;
		unsigned long times = 0;
		char command = 0;
		sscanf(line, " %c %u %lu", &command, &words, &times);
		if (command == 'd')
			printf("%08" PRIx32 " %08" PRIx32 "\n", all('s', words), gfni ? all('g', words) : 0);
		else
			printf("%" PRIu64 "\n", command == 'g' && !gfni ? 0 : measure(command, words, times));
		fflush(stdout);
	}
	return 0;
}
