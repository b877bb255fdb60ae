/*
 * Cuts a large TCP frame with DPDK's librte_gso and computes checksums in software.
 *
 * Reads commands from standard input and answers each with one line:
 *   d          FNV-1a digest of all octets of all segments, and their number
 *   l COUNT    cut COUNT times into linear mbufs with checksums; nanoseconds for all
 *   i COUNT    the same with indirect mbufs, whose payload is not copied
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_gso.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_tcp.h>

#define MSS 1448
#define SEGMENTS 45
#define HEADERS 54

static struct rte_mbuf *large;
static struct rte_gso_ctx ctx;

static void make_frame(uint8_t *frame)
{
	static const uint8_t headers[HEADERS] = {
		2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0,
		0x45, 0, 0xfe, 0xb0, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
		0, 80, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
	};
	memcpy(frame, headers, HEADERS);
	for (unsigned n = 0; n < SEGMENTS * MSS; n++)
		frame[HEADERS + n] = (uint8_t)(n * 31 % 251);
}

static int cut(struct rte_mbuf **segments)
{
	/* Segments that point into the frame hold it, and it must outlive them. */
	rte_mbuf_refcnt_set(large, 2);
	large->ol_flags = RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IPV4;
	return rte_gso_segment(large, &ctx, segments, SEGMENTS);
}

static int finish(struct rte_mbuf *segment, int linear)
{
	if (linear && rte_pktmbuf_linearize(segment) != 0)
		return -1;
	struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(segment, struct rte_ipv4_hdr *, 14);
	struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(ip + 1);
	ip->hdr_checksum = 0;
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	tcp->cksum = 0;
	tcp->cksum = linear ? rte_ipv4_udptcp_cksum(ip, tcp)
			    : rte_ipv4_udptcp_cksum_mbuf(segment, ip, 34);
	return 0;
}

static int run(int linear, uint64_t *digest)
{
	struct rte_mbuf *segments[SEGMENTS];
	int count = cut(segments);
	if (count <= 0)
		return -1;
	for (int n = 0; n < count; n++) {
		if (finish(segments[n], linear) != 0)
			return -1;
		if (digest) {
			const uint8_t *octets = rte_pktmbuf_mtod(segments[n], const uint8_t *);
			for (unsigned at = 0; at < segments[n]->pkt_len; at++)
				*digest = (*digest ^ octets[at]) * 0x100000001b3;
		}
	}
	rte_pktmbuf_free_bulk(segments, count);
	return count;
}

static int measure(int linear, unsigned long times)
{
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (unsigned long n = 0; n < times; n++)
		if (run(linear, NULL) != SEGMENTS)
			return -1;
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%" PRIu64 "\n", (uint64_t)(end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec);
	return 0;
}

int main(void)
{
	char *eal[] = {"gso", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "64", "--log-level", "4"};
	if (rte_eal_init(9, eal) < 0)
		return 1;
	struct rte_mempool *frames = rte_pktmbuf_pool_create("frames", 1, 0, 0, UINT16_MAX, SOCKET_ID_ANY);
	ctx.direct_pool = rte_pktmbuf_pool_create("direct", 511, 64, 0, 2048, SOCKET_ID_ANY);
	ctx.indirect_pool = rte_pktmbuf_pool_create("indirect", 511, 64, 0, 0, SOCKET_ID_ANY);
	if (!frames || !ctx.direct_pool || !ctx.indirect_pool)
		return 2;
	ctx.gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO;
	ctx.gso_size = HEADERS + MSS;
	large = rte_pktmbuf_alloc(frames);
	uint8_t *frame = large ? (uint8_t *)rte_pktmbuf_append(large, HEADERS + SEGMENTS * MSS) : NULL;
	if (!frame)
		return 3;
	make_frame(frame);
	large->l2_len = 14;
	large->l3_len = 20;
	large->l4_len = 20;

	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		unsigned long times = 0;
		char command = 0;
		sscanf(line, " %c %lu", &command, &times);
		if (command == 'd') {
			uint64_t digest = 0xcbf29ce484222325;
			int count = run(1, &digest);
			printf("%016" PRIx64 " %d\n", digest, count);
		} else if (measure(command == 'l', times) != 0) {
			return 4;
		}
		fflush(stdout);
	}
	return 0;
}
