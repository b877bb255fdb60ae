//! A small KVM virtual machine monitor.
