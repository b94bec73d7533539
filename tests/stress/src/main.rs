//! Tries to break the guarantees of `docs/issue.md` on a running server.
//!
//!     coupon_stress model STEPS SEED                      a random walk, every answer foretold by a model
//!     coupon_stress hammer CONNECTIONS ATTEMPTS SEED      many clients on one code, one budget, one customer, one session
//!     coupon_stress load CONNECTIONS ROUND SEED           clicks and orders until the server dies; what was acknowledged

mod hammer;
mod load;
mod model;
mod shop;
mod walk;

use shop::Outcome;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Err(e) = run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        eprintln!("FAILED: {}", shop::told(&e));
        std::process::exit(1);
    }
}

fn run(args: &[&str]) -> Outcome {
    match args {
        ["model", steps, seed] => walk::walk(steps.parse()?, seed.parse()?),
        ["hammer", connections, attempts, seed] => {
            hammer::hammer(connections.parse()?, attempts.parse()?, seed.parse()?)
        }
        ["load", connections, round, seed] => load::load(connections.parse()?, round.parse()?, seed.parse()?),
        _ => Err(
            "usage: coupon_stress model STEPS SEED | hammer CONNECTIONS ATTEMPTS SEED | load CONNECTIONS ROUND SEED"
                .into(),
        ),
    }
}
