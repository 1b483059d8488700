//! Images without a container engine and without a registry: a root folder is filled from Debian's packages, this
//! machine's busybox and our own binaries, and written as an OCI archive. The same input gives the same digest, and what
//! was made once is taken from the user's cache.

mod archive;
mod debian;
mod rootfs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

pub use archive::Settings;

use crate::run;

/// Changed whenever the same ingredients give another image.
const RECIPE: &str = "2";

/// What goes into an image, in this order.
enum Ingredient {
    /// Debian packages with the libraries they need.
    Packages(Vec<String>),
    /// The machine's static busybox, with a link for each of its applets.
    Busybox,
    /// Our own binaries with the libraries they need, in `/usr/bin`.
    Binaries(&'static [&'static str]),
    /// A file with its content.
    File(&'static str, &'static str),
    /// A symbolic link and where it points.
    Link(&'static str, &'static str),
    /// A folder of this machine, as it is.
    Folder(PathBuf),
}

/// The images the tests and the demo use.
pub const BUILT_IN: [&str; 4] = ["busybox", "nginx", "echo", "pause"];

/// Listens on port 80; what is in `conf.d` and the pages may be mounted over. Temporary files are in `/tmp`, so that a
/// read-only root with an emptyDir there is enough.
const NGINX_CONF: &str = "\
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    client_body_temp_path /tmp/client_body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_SITE: &str = "\
server {
    listen 80;
    root /usr/share/nginx/html;
    index index.html;
}
";

fn built_in(name: &str) -> Option<(Vec<Ingredient>, Settings)> {
    use Ingredient::{Binaries, Busybox, File, Link, Packages};
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Some(match name {
        "busybox" => (
            vec![Busybox],
            Settings {
                cmd: command(&["sh"]),
                ..Settings::default()
            },
        ),
        "nginx" => (
            vec![
                Packages(command(&["nginx", "nginx-common"])),
                Busybox,
                File("etc/nginx/nginx.conf", NGINX_CONF),
                File("etc/nginx/conf.d/default.conf", NGINX_SITE),
                Link("var/log/nginx/error.log", "/dev/stderr"),
            ],
            Settings {
                entrypoint: command(&["nginx", "-g", "daemon off;"]),
                // nginx finishes its requests on QUIT, and breaks them on TERM.
                stop_signal: Some("SIGQUIT".into()),
                ..Settings::default()
            },
        ),
        "echo" => (
            vec![Busybox, Binaries(&["keelson-echo", "keelson-bench"])],
            Settings {
                entrypoint: command(&["keelson-echo"]),
                ..Settings::default()
            },
        ),
        "pause" => (
            vec![Busybox],
            Settings {
                entrypoint: command(&["/bin/busybox", "sleep", "2147483647"]),
                ..Settings::default()
            },
        ),
        _ => return None,
    })
}

/// Where the test harness looks for archives.
fn folder() -> PathBuf {
    run::workspace().join("target/images")
}

/// All built-in images.
pub fn ensure_all() -> anyhow::Result<()> {
    make_built_in(&BUILT_IN).map(|_| ())
}

/// `image …`.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    if arguments.iter().any(|argument| argument.starts_with("--")) {
        let (ingredients, settings, name) = parse(arguments)?;
        return make(&name, &ingredients, &settings).map(|path| println!("{}", path.display()));
    }
    let names: Vec<&str> = match arguments {
        [] => BUILT_IN.to_vec(),
        names => names.iter().map(String::as_str).collect(),
    };
    for path in make_built_in(&names)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Make built-in images, each with the tag `1`, where the test harness looks for them.
fn make_built_in(names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    names
        .iter()
        .map(|name| {
            let (ingredients, settings) = built_in(name).with_context(|| {
                format!(
                    "no image `{name}` among the built-in ones: {}",
                    BUILT_IN.join(", ")
                )
            })?;
            make(&format!("{name}:1"), &ingredients, &settings)
        })
        .collect()
}

fn parse(arguments: &[String]) -> anyhow::Result<(Vec<Ingredient>, Settings, String)> {
    let mut ingredients = Vec::new();
    let mut settings = Settings::default();
    let mut name = None;
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("`{flag}` needs a value"))?
            .clone();
        match flag.as_str() {
            "--folder" => ingredients.push(Ingredient::Folder(value.into())),
            "--packages" => {
                ingredients.push(Ingredient::Packages(
                    value.split(',').map(str::to_owned).collect(),
                ));
            }
            "--name" => name = Some(value),
            "--entrypoint" => settings.entrypoint.push(value),
            "--cmd" => settings.cmd.push(value),
            "--env" => settings.env.push(value),
            "--user" => settings.user = Some(value),
            _ => bail!("image knows no `{flag}`"),
        }
    }
    if ingredients.is_empty() {
        bail!("an image needs --folder or --packages");
    }
    Ok((ingredients, settings, name.context("an image needs a --name")?))
}

/// Make an image, or take it from the cache; returns the archive in the target folder.
fn make(name: &str, ingredients: &[Ingredient], settings: &Settings) -> anyhow::Result<PathBuf> {
    let reference = archive::normalise(name)?;
    let file = format!("{}.tar", file_name(&reference));
    let mut hash = Sha256::new();
    hash.update(format!("{RECIPE}\n{reference}\n{settings:?}\n"));
    // A folder may change in ways that are as long to find as to pack.
    let mut cacheable = true;
    for ingredient in ingredients {
        match identity(ingredient)? {
            Some(identity) => hash.update(identity),
            None => cacheable = false,
        }
    }
    let cached = run::cache()?
        .join("images")
        .join(format!("{:.16}-{file}", hex(&hash.finalize())));
    if !(cacheable && cached.exists()) {
        run::step(format!("image {reference}"));
        let root = rootfs::Rootfs::new()?;
        for ingredient in ingredients {
            add(&root, ingredient)?;
        }
        archive::write(root.path(), &reference, settings, &cached)?;
    }
    let path = folder().join(file.replace("docker.io-library-", "").replace("-1.tar", ".tar"));
    if run::replace(&path, &fs::read(&cached).context("the cached image")?)? {
        run::step(format!("image {reference}: {}", path.display()));
    }
    if !cacheable {
        fs::remove_file(&cached).ok();
    }
    Ok(path)
}

fn file_name(reference: &str) -> String {
    reference.replace(['/', ':'], "-")
}

/// What an ingredient is, without unpacking it.
fn identity(ingredient: &Ingredient) -> anyhow::Result<Option<String>> {
    Ok(Some(match ingredient {
        Ingredient::Packages(names) => {
            let closure = debian::closure(names)?;
            format!("{closure:?}\n")
        }
        Ingredient::Busybox => format!("busybox {}\n", digest(&rootfs::busybox()?)?),
        Ingredient::Binaries(names) => {
            let mut text = String::new();
            for name in *names {
                let program = binary(name)?;
                for file in std::iter::once(program.clone()).chain(rootfs::libraries(&program)?) {
                    text += &format!("{} {}\n", file.display(), digest(&file)?);
                }
            }
            text
        }
        Ingredient::File(path, content) => format!("{path} {content}\n"),
        Ingredient::Link(path, target) => format!("{path} -> {target}\n"),
        Ingredient::Folder(_) => return Ok(None),
    }))
}

fn add(root: &rootfs::Rootfs, ingredient: &Ingredient) -> anyhow::Result<()> {
    match ingredient {
        Ingredient::Packages(names) => {
            for package in debian::closure(names)? {
                root.unpack(&debian::download(&package)?)?;
            }
            Ok(())
        }
        Ingredient::Busybox => root.busybox(),
        Ingredient::Binaries(names) => names.iter().try_for_each(|name| root.program(&binary(name)?)),
        Ingredient::File(path, content) => root.file(path, content),
        Ingredient::Link(path, target) => root.link(path, target),
        Ingredient::Folder(folder) => root.copy(folder),
    }
}

/// One of our own binaries.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let path = run::target().join("debug").join(name);
    if !path.exists() {
        bail!("{} is not built: `cargo xtask build` does it", path.display());
    }
    Ok(path)
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(hex(&Sha256::digest(content)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
