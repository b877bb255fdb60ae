# What the compiler expects of a C library. String instructions: the processor's own, in ring 3 at full speed.

.section .text.memory, "ax"

.global memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret

.global memmove
memmove:
    mov rax, rdi
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    mov rcx, rdx
    jb 1f                       # the destination starts inside the source: backwards
    rep movsb
    ret
1:  lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret

.global memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret

.global bcmp
.global memcmp
bcmp:
memcmp:
    xor ecx, ecx
1:  cmp rcx, rdx
    jae 2f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 1b
    ret
2:  xor eax, eax
    ret

.global strlen
strlen:
    mov rax, -1
1:  inc rax
    cmp byte ptr [rdi + rax], 0
    jne 1b
    ret
