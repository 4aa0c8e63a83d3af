//! The gate: the first program of a docker task's container. It waits until it is
//! let through, and then becomes the task's own program in place: the same process,
//! environment, user, directory and signals, and no file left open.
//!
//!     gate FIFO PROGRAM [ARGUMENT...]
//!
//! Letting through is to open FIFO for writing (fifo(7)). PROGRAM is looked for before
//! the wait, as runc does it, in the container's own PATH unless it has a slash. What
//! can never run ends at once: 127 if it is not there, 126 if it is no program, as
//! docker run has it. One that the kernel refuses ends with 255, as runc has it.
//!
//! It is bound into containers of any image and so has no library under it; `build.rs`
//! compiles it. This is why there is `unsafe` here: system calls, and memory that the
//! kernel laid out for a new process (argc, argv, envp: execve(2)).
#![no_std]
#![no_main]
// nothing is linked that has memcpy or memset
#![no_builtins]

use core::{
    arch::{asm, global_asm},
    mem::MaybeUninit,
    panic::PanicInfo,
};

#[cfg(target_arch = "x86_64")]
mod call {
    pub const WRITE: usize = 1;
    pub const EXECVE: usize = 59;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const FACCESSAT: usize = 269;
    pub const O_DIRECTORY: usize = 0o200_000;
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const WRITE: usize = 64;
    pub const EXECVE: usize = 221;
    pub const EXIT_GROUP: usize = 94;
    pub const OPENAT: usize = 56;
    pub const FACCESSAT: usize = 48;
    pub const O_DIRECTORY: usize = 0o40_000;
}

const O_RDONLY: usize = 0;
const O_CLOEXEC: usize = 0o2_000_000;
const O_PATH: usize = 0o10_000_000;
const AT_FDCWD: usize = -100_isize as usize;
const X_OK: usize = 1;
const STDERR: usize = 2;
const ENOENT: isize = -2;
const EINTR: isize = -4;
const ENOEXEC: isize = -8;
const EACCES: isize = -13;
/// The longest path, with the octet that ends it.
const PATH_MAX: usize = 4096;

const NOT_FOUND: usize = 127;
const NO_PROGRAM: usize = 126;
const REFUSED: usize = 255;

// what the kernel has put on the stack is the argument
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {run}",
    run = sym run
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl {run}",
    run = sym run
);

/// A system call; a negative number is an error's. Pointers must be what the call
/// takes.
unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

/// A string that ends with a zero octet, and lives as long as the process.
#[derive(Clone, Copy)]
struct Text(*const u8);

impl Text {
    /// The octet there; its callers stop at the zero.
    fn at(self, index: usize) -> u8 {
        unsafe { *self.0.add(index) }
    }

    fn len(self) -> usize {
        let mut len = 0;
        while self.at(len) != 0 {
            len += 1;
        }
        len
    }

    fn has_slash(self) -> bool {
        (0..self.len()).any(|index| self.at(index) == b'/')
    }

    /// What follows this, if it begins with this.
    fn after(self, begin: &[u8]) -> Option<Self> {
        let mut index = 0;
        for octet in begin {
            if self.at(index) != *octet {
                return None;
            }
            index += 1;
        }
        Some(Self(unsafe { self.0.add(index) }))
    }

    fn open(self, flags: usize) -> isize {
        unsafe {
            call(
                call::OPENAT,
                [AT_FDCWD, self.0 as usize, flags | O_CLOEXEC, 0],
            )
        }
    }

    /// Zero if it can be run, or an error's number.
    fn is_program(self) -> isize {
        let error = unsafe { call(call::FACCESSAT, [AT_FDCWD, self.0 as usize, X_OK, 0]) };
        match error {
            // to enter a directory is to "execute" it; what is open now, execve closes
            0 if self.open(O_PATH | call::O_DIRECTORY) >= 0 => EACCES,
            error => error,
        }
    }
}

fn exit(code: usize) -> ! {
    loop {
        unsafe { call(call::EXIT_GROUP, [code, 0, 0, 0]) };
    }
}

fn print(text: &[u8]) {
    // there is nobody to tell that this failed
    unsafe { call(call::WRITE, [STDERR, text.as_ptr() as usize, text.len(), 0]) };
}

fn print_text(text: Text) {
    unsafe { call(call::WRITE, [STDERR, text.0 as usize, text.len(), 0]) };
}

fn reason(error: isize) -> &'static [u8] {
    match error {
        ENOENT => b"no such file or directory\n",
        EACCES => b"permission denied\n",
        ENOEXEC => b"exec format error\n",
        _ => b"the kernel refuses it\n",
    }
}

/// Ends as runc does where a program cannot be.
fn give_up(name: Text, error: isize) -> ! {
    print(b"exec: \"");
    print_text(name);
    print(b"\": ");
    if error == EACCES {
        print(reason(error));
        exit(NO_PROGRAM);
    }
    if name.has_slash() {
        print(b"stat ");
        print_text(name);
        print(b": no such file or directory\n");
    } else {
        print(b"executable file not found in $PATH\n");
    }
    exit(NOT_FOUND)
}

/// The first program of this name in a list of directories, made in the buffer.
fn search(name: Text, path: Text, buffer: *mut u8) -> Option<Text> {
    let mut begin = 0;
    loop {
        let mut end = begin;
        while path.at(end) != 0 && path.at(end) != b':' {
            end += 1;
        }
        // with a slash between them, and a zero octet behind
        if end - begin + name.len() + 2 <= PATH_MAX {
            let mut length = 0;
            let mut put = |octet| {
                unsafe { *buffer.add(length) = octet };
                length += 1;
            };
            if begin == end {
                // an empty one is the working directory
                put(b'.');
            }
            (begin..end).for_each(|index| put(path.at(index)));
            put(b'/');
            // with its zero octet
            (0..=name.len()).for_each(|index| put(name.at(index)));
            if Text(buffer).is_program() == 0 {
                return Some(Text(buffer));
            }
        }
        if path.at(end) == 0 {
            return None;
        }
        begin = end + 1;
    }
}

/// What the gate does. `stack` is as the kernel made it: argc, argv with a null
/// pointer behind, envp with a null pointer behind.
unsafe extern "C" fn run(stack: *const usize) -> ! {
    let argc = unsafe { *stack };
    let argv = unsafe { stack.add(1) }.cast::<*const u8>();
    let envp = unsafe { argv.add(argc + 1) };
    if argc < 3 {
        print(b"usage: gate FIFO PROGRAM [ARGUMENT...]\n");
        exit(NOT_FOUND);
    }
    let (fifo, name) = unsafe { (Text(*argv.add(1)), Text(*argv.add(2))) };

    let mut buffer = MaybeUninit::<[u8; PATH_MAX]>::uninit();
    let program = if name.has_slash() {
        match name.is_program() {
            0 => name,
            error => give_up(name, error),
        }
    } else {
        let mut path = None;
        let mut variable = envp;
        while path.is_none() && unsafe { !(*variable).is_null() } {
            path = Text(unsafe { *variable }).after(b"PATH=");
            variable = unsafe { variable.add(1) };
        }
        let found = path.and_then(|path| search(name, path, buffer.as_mut_ptr().cast()));
        match found {
            Some(program) => program,
            None => give_up(name, ENOENT),
        }
    };

    let mut opened = EINTR;
    while opened == EINTR {
        opened = fifo.open(O_RDONLY);
    }
    if opened < 0 {
        print(b"gate: cannot open ");
        print_text(fifo);
        print(b": ");
        print(reason(opened));
        exit(REFUSED);
    }
    let arguments = unsafe { argv.add(2) } as usize;
    let error = unsafe {
        call(
            call::EXECVE,
            [program.0 as usize, arguments, envp as usize, 0],
        )
    };
    print(b"exec ");
    print_text(program);
    print(b": ");
    print(reason(error));
    exit(REFUSED)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(REFUSED)
}
