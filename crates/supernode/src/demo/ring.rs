//! The distributed program of the demo: a ring all-reduce over TCP, checked on every rank. It reads what `torch.distributed` reads
//! (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`); `examples/ring_allreduce.py` is the same in Python.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use supernode_types::Clock;
use supernode_types::time::{SystemClock, parse_duration};

/// How long a peer may be silent.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the program takes
#[derive(Debug, clap::Args)]
pub(crate) struct RingArguments {
    /// Numbers per rank
    #[arg(long, default_value_t = 262_144)]
    elements: usize,
    /// How long to go on
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    seconds: Duration,
}

/// Runs one rank.
pub(crate) fn run(arguments: &RingArguments) -> anyhow::Result<ExitCode> {
    let rank: usize = variable("RANK")?;
    let world: usize = variable("WORLD_SIZE")?;
    ensure!(rank < world, "RANK is {rank}, WORLD_SIZE {world}");
    let (mut next, mut previous) = connect(rank, world)?;
    let clock = SystemClock;
    let begun = clock.monotonic();
    let mut iterations = 0_u64;
    loop {
        // The last element is a vote: the ring goes on only while every rank wants to.
        let done = clock.monotonic().saturating_sub(begun) >= arguments.seconds;
        let mut data: Vec<f64> = (0..arguments.elements)
            .map(|index| value(rank, index))
            .collect();
        data.push(f64::from(u8::from(done)));
        all_reduce(&mut data, rank, world, &mut next, &mut previous)?;
        let votes = data.pop().unwrap_or_default();
        for (index, sum) in data.iter().enumerate() {
            let expected: f64 = (0..world).map(|rank| value(rank, index)).sum();
            ensure!(
                (sum - expected).abs() < 1e-9 * expected.abs().max(1.0),
                "wrong sum at {index}: {sum}, expected {expected}"
            );
        }
        iterations += 1;
        if votes > 0.0 {
            break;
        }
    }
    let seconds = (clock.monotonic().saturating_sub(begun)).as_secs_f64();
    println!(
        "rank={rank} world_size={world} iterations={iterations} bytes={} seconds={seconds:.1} ok",
        arguments.elements * 8
    );
    Ok(ExitCode::SUCCESS)
}

fn variable<T: std::str::FromStr>(name: &str) -> anyhow::Result<T> {
    let text = std::env::var(name)
        .with_context(|| format!("{name} is not set; run this with supernode run"))?;
    text.parse()
        .ok()
        .with_context(|| format!("{name} is `{text}`, not a number"))
}

fn value(rank: usize, index: usize) -> f64 {
    f64::from(u32::try_from((rank + 1) * (index % 97 + 1)).unwrap_or(0))
}

/// A connection to the next rank and one from the previous; rank 0 tells everybody where everybody listens.
fn connect(rank: usize, world: usize) -> anyhow::Result<(TcpStream, TcpStream)> {
    let master: SocketAddr = format!(
        "{}:{}",
        std::env::var("MASTER_ADDR")?,
        variable::<u16>("MASTER_PORT")?
    )
    .parse()
    .context("MASTER_ADDR is not an IP address")?;
    let ring =
        TcpListener::bind((master.ip(), 0)).or_else(|_| TcpListener::bind(("0.0.0.0", 0)))?;
    let own_port = ring.local_addr()?.port();
    let addresses = if rank == 0 {
        gather(master, own_port, world)?
    } else {
        register(master, rank, own_port)?
    };
    let next = addresses[(rank + 1) % world];
    let outgoing = std::thread::spawn(move || retry(next));
    let (incoming, _) = ring.accept()?;
    let outgoing = outgoing
        .join()
        .map_err(|_| anyhow::anyhow!("connecting to the next rank panicked"))??;
    for stream in [&incoming, &outgoing] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((outgoing, incoming))
}

fn gather(master: SocketAddr, own_port: u16, world: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let listener = TcpListener::bind(master)?;
    let mut addresses = vec![SocketAddr::new(master.ip(), own_port); world];
    let mut peers = Vec::new();
    while peers.len() + 1 < world {
        let (stream, from) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let (rank, port) = line
            .trim()
            .split_once(' ')
            .context("a peer said something else than its rank and port")?;
        let rank: usize = rank.parse()?;
        ensure!(
            rank < world,
            "a peer says that it is rank {rank} of {world}"
        );
        addresses[rank] = SocketAddr::new(from.ip(), port.parse()?);
        peers.push(stream);
    }
    let table: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    for mut peer in peers {
        writeln!(peer, "{}", table.join(" "))?;
    }
    Ok(addresses)
}

fn register(master: SocketAddr, rank: usize, own_port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let mut stream = retry(master)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{rank} {own_port}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    line.split_whitespace()
        .map(|address| {
            address
                .parse()
                .context("rank 0 sent something else than addresses")
        })
        .collect()
}

fn retry(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let begun = SystemClock.monotonic();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(error) if SystemClock.monotonic().saturating_sub(begun) > PATIENCE => {
                bail!("cannot reach {address}: {error}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Reduce-scatter, then all-gather, in `world - 1` steps each.
fn all_reduce(
    data: &mut [f64],
    rank: usize,
    world: usize,
    next: &mut TcpStream,
    previous: &mut TcpStream,
) -> anyhow::Result<()> {
    let bounds: Vec<usize> = (0..=world).map(|part| part * data.len() / world).collect();
    let part = |index: usize| bounds[index % world]..bounds[index % world + 1];
    for step in 0..2 * (world - 1) {
        let reducing = step < world - 1;
        let shift = if reducing { step } else { step - (world - 1) };
        let (sent, received) = if reducing {
            (rank + world - shift, rank + 2 * world - shift - 1)
        } else {
            (rank + 1 + world - shift, rank + world - shift)
        };
        let incoming = exchange(&data[part(sent)], part(received).len(), next, previous)?;
        for (own, other) in data[part(received)].iter_mut().zip(incoming) {
            *own = if reducing { *own + other } else { other };
        }
    }
    Ok(())
}

/// Sends and receives at the same time: two ranks that both only send would wait for ever.
fn exchange(
    outgoing: &[f64],
    count: usize,
    next: &mut TcpStream,
    previous: &mut TcpStream,
) -> anyhow::Result<Vec<f64>> {
    let bytes: Vec<u8> = outgoing
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let mut received = vec![0; count * 8];
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| next.write_all(&bytes));
        previous
            .read_exact(&mut received)
            .context("the previous rank is gone")?;
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("sending panicked"))?
            .context("the next rank is gone")
    })?;
    Ok(received
        .chunks_exact(8)
        .map(|chunk| f64::from_le_bytes(chunk.try_into().expect("chunks of eight")))
        .collect())
}
