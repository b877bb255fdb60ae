//! What a processor says about itself: what KVM supports, with a topology of the machine's own.
//!
//! A machine is one package with one thread in each of its cores; processor numbers are (x2)APIC numbers. Nothing of
//! the host's own topology shows. Features that need more of the host than KVM sets up are left out: performance
//! counters, MWAIT, enclaves, processor tracing.
//!
//! Source: Intel SDM, volume 2, CPUID; AMD APM, volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use vmm_sys_util::errno;

use super::VcpuError;

/// Leaf 1, ECX: no debug store, MONITOR, performance capabilities; x2APIC, TSC deadline timer, hypervisor.
const MONITOR: u32 = 1 << 3;
const DEBUG_STORE: u32 = 1 << 2 | 1 << 4;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one processor in the package.
const MULTI_PROCESSOR: u32 = 1 << 28;
/// Leaf 6: the local APIC's timer never stops.
const TIMER_ALWAYS_RUNS: u32 = 1 << 2;
/// Leaf 7: enclaves and processor tracing in EBX, enclave launch control in ECX, hybrid in EDX.
const ENCLAVES_AND_TRACING: u32 = 1 << 2 | 1 << 25;
const ENCLAVE_LAUNCH: u32 = 1 << 30;
const HYBRID: u32 = 1 << 15;
/// Leaf 0x8000_0001, ECX: legacy multi-processing, topology extensions, performance counters, MWAITX.
const LEGACY_CORES: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const AMD_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
const MONITORX: u32 = 1 << 29;
/// KVM's hint that no processor is ever preempted.
const HINT_REALTIME: u32 = 1;
/// The leaf with the frequencies of time stamp counter and local APIC in kHz, and what KVM's APIC runs at.
const TIMING: u32 = 0x4000_0010;
const APIC_KHZ: u32 = 1_000_000;

/// Leaves whose content would be the host's or lacks its host side: MWAIT, direct cache access, performance
/// monitoring, enclaves, tracing, crystal and core frequencies, core kinds, AMD's counters and topology.
const WITHHELD: [u32; 11] = [
    5,
    9,
    0xa,
    0x12,
    0x14,
    0x15,
    0x16,
    0x1a,
    0x8000_001b,
    0x8000_0022,
    0x8000_0026,
];

/// What all processors have in common.
pub(super) struct Template {
    supported: Vec<kvm_cpuid_entry2>,
    deadline_timer: bool,
}

impl Template {
    /// Asks KVM.
    pub(super) fn new(kvm: &Kvm) -> Result<Self, VcpuError> {
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(|source| VcpuError::Setup {
                    what: "ask for CPUID",
                    source,
                })?;
        Ok(Self {
            supported: supported.as_slice().to_vec(),
            deadline_timer: kvm.check_extension(Cap::TscDeadlineTimer),
        })
    }

    /// What processor `id` of `count` says, whose time stamp counter runs at `tsc_khz`.
    pub(super) fn of(&self, id: u8, count: u8, tsc_khz: Option<u32>) -> Result<CpuId, VcpuError> {
        CpuId::from_entries(&self.entries(id, count, tsc_khz)).map_err(|_| VcpuError::Setup {
            what: "fit the CPUID leaves",
            source: errno::Error::new(libc::E2BIG),
        })
    }

    fn entries(&self, id: u8, count: u8, tsc_khz: Option<u32>) -> Vec<kvm_cpuid_entry2> {
        let place = Place {
            id: id.into(),
            count: count.into(),
        };
        let rebuilt = [0xb, 0x1f, TIMING];
        let mut entries: Vec<_> = self
            .supported
            .iter()
            .filter(|entry| !WITHHELD.contains(&entry.function) && !rebuilt.contains(&entry.function))
            .copied()
            .collect();
        let amd = entries.iter().any(is_amd);
        let extensions = entries.iter().any(|entry| entry.function == 0x8000_001e);
        let told = entries.iter().find(|entry| entry.function == 0);
        let highest = told.map_or(0, |entry| entry.eax).max(0xb);
        for entry in &mut entries {
            match entry.function {
                0 => entry.eax = highest,
                1 => self.features(entry, place),
                0x8000_0001 => amd_features(entry, place, amd, extensions),
                0x4000_0000 if tsc_khz.is_some() => entry.eax = entry.eax.max(TIMING),
                _ => adapt(entry, place, amd),
            }
        }
        entries.extend(place.extended_topology(0xb));
        if highest >= 0x1f {
            entries.extend(place.extended_topology(0x1f));
        }
        let kvm = self.supported.iter().any(|entry| entry.function == 0x4000_0000);
        entries.extend(tsc_khz.filter(|_| kvm).map(|khz| kvm_cpuid_entry2 {
            function: TIMING,
            eax: khz,
            ebx: APIC_KHZ,
            ..Default::default()
        }));
        entries
    }

    fn features(&self, entry: &mut kvm_cpuid_entry2, place: Place) {
        entry.ebx = entry.ebx & 0xffff | place.count << 16 | place.id << 24;
        entry.ecx &= !(MONITOR | DEBUG_STORE | PERFORMANCE_CAPABILITIES);
        entry.ecx |= HYPERVISOR | X2APIC;
        set(&mut entry.ecx, TSC_DEADLINE, self.deadline_timer);
        set(&mut entry.edx, MULTI_PROCESSOR, place.count > 1);
    }
}

/// A processor among its siblings.
#[derive(Clone, Copy)]
struct Place {
    id: u32,
    count: u32,
}

impl Place {
    /// Bits of an APIC number that tell the processors of the package apart.
    fn bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    /// The extended topology leaves: one thread in a core, `count` processors in the package.
    fn extended_topology(self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: kind << 8 | index,
            edx: self.id,
            ..Default::default()
        };
        [
            level(0, 0, 1, 1),
            level(1, self.bits(), self.count, 2),
            level(2, 0, 0, 0),
        ]
    }

    /// Describes a cache (leaf 4, and 0x8000_001d alike): the third level is everyone's, the others a core's own.
    fn cache(self, entry: &mut kvm_cpuid_entry2, cores_field: bool) {
        let kind = entry.eax & 0x1f;
        if kind == 0 {
            return;
        }
        let siblings = self.count.next_power_of_two() - 1;
        let sharing = if entry.eax >> 5 & 7 >= 3 { siblings } else { 0 };
        // The number of cores has six bits; processors beyond are told by the extended topology leaves.
        let cores = if cores_field { siblings.min(0x3f) } else { 0 };
        entry.eax = entry.eax & 0x3fff | sharing << 14 | cores << 26;
    }
}

/// Adapts a leaf that needs nothing but the processor's place.
fn adapt(entry: &mut kvm_cpuid_entry2, place: Place, amd: bool) {
    match entry.function {
        4 => place.cache(entry, true),
        6 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & TIMER_ALWAYS_RUNS, 0, 0, 0),
        7 if entry.index == 0 => {
            entry.ebx &= !ENCLAVES_AND_TRACING;
            entry.ecx &= !ENCLAVE_LAUNCH;
            entry.edx &= !HYBRID;
        }
        0x4000_0001 => entry.edx &= !HINT_REALTIME,
        0x8000_0008 => {
            entry.ecx = if amd {
                (place.bits() << 12) | (place.count - 1)
            } else {
                0
            }
        }
        0x8000_001d => place.cache(entry, false),
        // Extended APIC number; one thread in the core of this number; one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (place.id, place.id, 0, 0),
        _ => {}
    }
}

fn amd_features(entry: &mut kvm_cpuid_entry2, place: Place, amd: bool, extensions: bool) {
    entry.ecx &= !(AMD_COUNTERS | MONITORX);
    if amd {
        set(&mut entry.ecx, LEGACY_CORES, place.count > 1);
        set(&mut entry.ecx, TOPOLOGY_EXTENSIONS, extensions);
    }
}

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

/// Whether this is the vendor leaf of an AMD processor or of one that describes itself the same way.
fn is_amd(entry: &kvm_cpuid_entry2) -> bool {
    let vendor = [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat();
    entry.function == 0 && (vendor == *b"AuthenticAMD" || vendor == *b"HygonGenuine")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
    const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];

    fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    /// A host with other ideas about everything: 32 processors, counters, MWAIT, enclaves.
    fn template([ebx, ecx, edx]: [u32; 3]) -> Template {
        let ones = [u32::MAX; 4];
        let mut supported = vec![
            leaf(0, 0, [0x1f, ebx, ecx, edx]),
            leaf(1, 0, [0x806f8, 0x1f20_0800, u32::MAX, u32::MAX]),
            leaf(4, 0, [0xfc07_c121, 1, 2, 3]),
            leaf(4, 2, [0xfc07_c143, 1, 2, 3]),
            leaf(4, 3, [0xfc07_c163, 1, 2, 3]),
            leaf(4, 4, [0, 0, 0, 0]),
            leaf(6, 0, [0xf7, 2, 9, 0]),
            leaf(7, 0, ones),
            leaf(0xb, 0, [1, 2, 0x100, 31]),
            leaf(0xb, 1, [5, 32, 0x201, 31]),
            leaf(0x1f, 0, [1, 2, 0x100, 31]),
            leaf(0x4000_0000, 0, [0x4000_0001, 1, 2, 3]),
            leaf(0x4000_0001, 0, [0x0100_7efb, 0, 0, 1]),
            leaf(0x8000_0001, 0, ones),
            leaf(0x8000_0007, 0, [0, 0, 0, 0x100]),
            leaf(0x8000_0008, 0, [0x3028, 0, 0x2_501f, 0]),
            leaf(0x8000_001d, 3, [0x7_c163, 0, 0, 0]),
            leaf(0x8000_001e, 0, [31, 0x10f, 0x301, 0]),
        ];
        supported.extend(WITHHELD.map(|function| leaf(function, 0, ones)));
        Template {
            supported,
            deadline_timer: true,
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
        let mut found = entries
            .iter()
            .filter(|entry| (entry.function, entry.index) == (function, index));
        let entry = found
            .next()
            .unwrap_or_else(|| panic!("{function:#x}.{index} is there"));
        assert!(found.next().is_none(), "{function:#x}.{index} is there once");
        [entry.eax, entry.ebx, entry.ecx, entry.edx]
    }

    #[test]
    fn eight_processors_are_cores_of_one_package() {
        for vendor in [INTEL, AMD] {
            for id in 0..8_u8 {
                let entries = template(vendor).entries(id, 8, None);
                let apic = u32::from(id);
                assert_eq!(find(&entries, 1, 0)[1], apic << 24 | 8 << 16 | 0x0800);
                assert_eq!(find(&entries, 1, 0)[3] & MULTI_PROCESSOR, MULTI_PROCESSOR);
                for function in [0xb, 0x1f] {
                    assert_eq!(find(&entries, function, 0), [0, 1, 0x100, apic]);
                    assert_eq!(find(&entries, function, 1), [3, 8, 0x201, apic]);
                    assert_eq!(find(&entries, function, 2), [0, 0, 2, apic]);
                }
                // Cores and sharers less one; a core's own caches, then the one of all.
                assert_eq!(find(&entries, 4, 0), [7 << 26 | 0x121, 1, 2, 3]);
                assert_eq!(find(&entries, 4, 2), [7 << 26 | 0x143, 1, 2, 3]);
                assert_eq!(find(&entries, 4, 3), [7 << 26 | 7 << 14 | 0x163, 1, 2, 3]);
                assert_eq!(find(&entries, 4, 4), [0, 0, 0, 0]);
                assert_eq!(find(&entries, 0x8000_001d, 3)[0], 7 << 14 | 0x163);
                assert_eq!(find(&entries, 0x8000_001e, 0), [apic, apic, 0, 0]);
            }
        }
        let ecx = |vendor| find(&template(vendor).entries(0, 8, None), 0x8000_0008, 0)[2];
        assert_eq!((ecx(AMD), ecx(INTEL)), (3 << 12 | 7, 0));
    }

    #[test]
    fn one_processor_and_254() {
        let entries = template(AMD).entries(0, 1, None);
        assert_eq!(find(&entries, 1, 0)[1], 1 << 16 | 0x0800);
        assert_eq!(find(&entries, 1, 0)[3] & MULTI_PROCESSOR, 0);
        assert_eq!(find(&entries, 0x8000_0001, 0)[2] & LEGACY_CORES, 0);
        assert_eq!(find(&entries, 0xb, 1), [0, 1, 0x201, 0]);
        assert_eq!(find(&entries, 4, 3)[0], 0x163);
        let entries = template(INTEL).entries(253, 254, None);
        assert_eq!(find(&entries, 1, 0)[1], 0xfdfe_0800);
        assert_eq!(find(&entries, 0xb, 1), [8, 254, 0x201, 253]);
        assert_eq!(find(&entries, 4, 3)[0], 63 << 26 | 255 << 14 | 0x163);
    }

    #[test]
    fn what_needs_more_of_the_host_is_withheld() {
        let entries = template(INTEL).entries(0, 2, None);
        for function in WITHHELD {
            assert!(
                entries.iter().all(|entry| entry.function != function),
                "{function:#x}"
            );
        }
        let [_, _, ecx, _] = find(&entries, 1, 0);
        assert_eq!(ecx & (MONITOR | DEBUG_STORE | PERFORMANCE_CAPABILITIES), 0);
        let wanted = HYPERVISOR | X2APIC | TSC_DEADLINE;
        assert_eq!(ecx & wanted, wanted);
        let [_, ebx, ecx, edx] = find(&entries, 7, 0);
        assert_eq!(
            (ebx & ENCLAVES_AND_TRACING, ecx & ENCLAVE_LAUNCH, edx & HYBRID),
            (0, 0, 0)
        );
        assert_eq!(find(&entries, 6, 0), [4, 0, 0, 0]);
        assert_eq!(find(&entries, 0x8000_0001, 0)[2] & (AMD_COUNTERS | MONITORX), 0);
        assert_eq!(find(&entries, 0x4000_0001, 0), [0x0100_7efb, 0, 0, 0]);
        assert_eq!(find(&entries, 0x8000_0007, 0)[3], 0x100);
    }

    #[test]
    fn the_frequency_is_told_when_it_is_known() {
        let entries = template(AMD).entries(0, 1, Some(2_445_406));
        assert_eq!(find(&entries, 0x4000_0000, 0), [TIMING, 1, 2, 3]);
        assert_eq!(find(&entries, TIMING, 0), [2_445_406, APIC_KHZ, 0, 0]);
        let entries = template(AMD).entries(0, 1, None);
        assert_eq!(find(&entries, 0x4000_0000, 0)[0], 0x4000_0001);
        assert!(entries.iter().all(|entry| entry.function != TIMING));
    }

    #[test]
    fn an_old_host_gets_the_extended_topology() {
        let mut old = template(AMD);
        old.supported.retain(|entry| entry.function != 0x8000_001e);
        old.supported[0].eax = 7;
        old.deadline_timer = false;
        let entries = old.entries(1, 4, None);
        assert_eq!(find(&entries, 0, 0)[0], 0xb);
        assert_eq!(find(&entries, 0xb, 1), [2, 4, 0x201, 1]);
        assert!(entries.iter().all(|entry| entry.function != 0x1f));
        assert_eq!(find(&entries, 0x8000_0001, 0)[2] & TOPOLOGY_EXTENSIONS, 0);
        assert_eq!(find(&entries, 1, 0)[2] & TSC_DEADLINE, 0);
    }
}
