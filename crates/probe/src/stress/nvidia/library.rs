//! Libraries of the vendor, opened when a test wants them: nothing of them is needed to build, and where they are missing, that is said.

use std::path::PathBuf;

use libloading::Library;

/// Declares the functions of a library that are used, with the symbols that they have there, and a way to load them all. Each returns
/// a status, zero when all is well.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($name:ident = $symbol:literal ($($argument:ty),* $(,)?);)* }) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,)*
            /// The functions live as long as it does.
            _library: libloading::Library,
        }

        impl $table {
            /// Takes the functions from their library, or says which one it does not have.
            pub(super) fn of(library: libloading::Library) -> Result<Self, String> {
                // SAFETY: the types are those of the vendor's header for exactly these symbols.
                unsafe {
                    Ok(Self {
                        $($name: *library
                            .get(concat!($symbol, "\0").as_bytes())
                            .map_err(|_| concat!("it has no function ", $symbol).to_owned())?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}
pub(super) use functions;

/// Where toolkits put their libraries when the linker was not told.
const TOOLKIT: [&str; 2] = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
];

/// Opens the first of these names that is there: as the linker finds it (with the agent's `LD_LIBRARY_PATH`), else in the usual place.
pub(super) fn open(names: &[&str]) -> Result<Library, String> {
    let usual = TOOLKIT.iter().flat_map(|folder| {
        names
            .iter()
            .map(move |name| PathBuf::from(folder).join(name))
    });
    let mut why = String::new();
    for path in names.iter().map(PathBuf::from).chain(usual) {
        // SAFETY: loading runs the library's own initialisation; these are the vendor's, and so is every other program on this device.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok(library),
            // The first is the usual name; what the linker says of it is what helps.
            Err(error) if why.is_empty() => why = error.to_string(),
            Err(_) => {}
        }
    }
    Err(why)
}
